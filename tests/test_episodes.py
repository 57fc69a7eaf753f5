"""Examples, Episodes and the shared functions, over spaces of shapes and masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

import kshot
from kshot.episodes import Episodes, Examples, Unlabeled, concatenate
from kshot.errors import SupportError
from kshot.functional import class_means, mask_logits, masked_cross_entropy, masked_gaussian_nll, masked_mse, one_hot


@st.composite
def labelled(draw, floats=torch.float64):
    n, way, d, seed = (
        draw(st.integers(1, 12)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 4)),
        draw(st.integers(0, 999)),
    )
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(n, generator=g) < draw(st.floats(0, 1))
    y = torch.randint(way, (n,), generator=g)
    classes = torch.zeros(way, dtype=torch.bool)
    classes[y[mask]] = True
    return Examples(torch.randn(n, d, generator=g, dtype=floats), y * mask, mask, classes)


@given(labelled())
def test_class_means_respect_masks(e):
    means = class_means(e)
    for c in range(e.way):
        rows = e.x[e.mask & (e.y == c)]
        torch.testing.assert_close(means[c], rows.mean(0) if len(rows) else torch.zeros_like(means[c]))


@given(labelled(), st.integers(0, 999))
def test_what_stands_in_the_padding_does_not_matter(e, seed):
    g = torch.Generator().manual_seed(seed)
    other = Examples(torch.where(e.mask[:, None], e.x, 1e6), torch.where(e.mask, e.y, 0), e.mask, e.classes)
    torch.testing.assert_close(class_means(other), class_means(e))
    logits = torch.randn(e.size, e.way, generator=g, dtype=torch.float64)
    noisy = torch.where(e.mask[:, None], logits, 50.0)
    torch.testing.assert_close(masked_cross_entropy(noisy, e), masked_cross_entropy(logits, e))


@given(labelled())
def test_masked_cross_entropy_is_that_of_the_real_examples(e):
    if not e.mask.any():
        assert masked_cross_entropy(torch.randn(e.size, e.way), e) == 0
        return
    logits = torch.randn(e.size, e.way, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits[e.mask].masked_fill(~e.classes, -torch.inf), e.y[e.mask])
    torch.testing.assert_close(masked_cross_entropy(logits, e), expected)


def test_a_masked_class_gives_no_nan_gradient():
    e = Examples(
        torch.zeros(3, 1), torch.tensor([0, 2, 0]), torch.tensor([True, True, False]), torch.tensor([1, 0, 1]).bool()
    )
    logits = torch.randn(3, 3, requires_grad=True)
    masked_cross_entropy(logits, e).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[2] == 0).all()
    assert mask_logits(logits, e.classes).softmax(-1)[:, 1].sum() == 0


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 999), st.floats(0, 1e4))
def test_squared_distance(n, m, d, seed, offset):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(2, n, d, generator=g, dtype=torch.float64) + offset
    b = torch.randn(2, m, d, generator=g, dtype=torch.float64) + offset
    expected = (a[:, :, None] - b[:, None]).square().sum(-1)
    torch.testing.assert_close(kshot.squared_distance(a, b), expected, rtol=1e-8, atol=1e-8)


def test_squared_distance_is_near_zero_at_zero_and_twice_differentiable():
    a = torch.randn(40, 64) + 100
    assert kshot.squared_distance(a, a).diagonal().max() < 0.01
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: kshot.squared_distance(v, v.flip(0) * 2), x)


def test_mse_and_gaussian_nll():
    y = torch.randn(5, 2)
    e = Examples(torch.zeros(5, 1), y, torch.tensor([1, 1, 1, 0, 0]).bool(), torch.ones(0, dtype=torch.bool))
    values = torch.randn(5, 2)
    torch.testing.assert_close(masked_mse(values, e), (values - y)[:3].square().mean())
    log_variance = torch.randn(5, 2)
    normal = torch.distributions.Normal(values, (0.5 * log_variance).exp())
    expected = -normal.log_prob(y)[:3].sum(-1).mean()
    torch.testing.assert_close(masked_gaussian_nll(torch.cat([values, log_variance], -1), e), expected)


def test_one_hot_is_zero_on_padding():
    e = Examples(torch.zeros(2, 1), torch.tensor([1, 0]), torch.tensor([True, False]), torch.ones(2, dtype=torch.bool))
    assert one_hot(e).tolist() == [[0, 1], [0, 0]]


def test_examples_of():
    e = Examples.of(torch.zeros(3, 2), torch.tensor([0, 2, 2]), way=4)
    assert e.classes.tolist() == [True, False, True, False]
    assert e.way == 4
    assert e.size == 3
    assert e.padded
    assert not Examples.of(torch.zeros(2, 2), torch.tensor([0, 1])).padded
    assert Examples.of(torch.zeros(3, 2), torch.zeros(3)).y.shape == (3, 1)
    with pytest.raises(SupportError, match="one label for each of the 3 examples, got 2"):
        Examples.of(torch.zeros(3, 2), torch.tensor([0, 1]))
    with pytest.raises(SupportError, match=r"labels in 0..1, got 0..2"):
        Examples.of(torch.zeros(2, 2), torch.tensor([0, 2]), way=2)


def test_pytrees_vmap_slices_and_chunks():
    episodes = kshot.testing.gaussian_episodes(5)
    leaves, spec = pytree.tree_flatten(episodes)
    assert len(leaves) == 9
    again = pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, Episodes)
    assert torch.equal(again.query.x, episodes.query.x)
    assert torch.vmap(lambda e: e.support.x.sum())(episodes).shape == (5,)
    assert [len(part) for part in episodes.chunks(2)] == [2, 2, 1]
    assert torch.equal(concatenate(list(episodes.chunks(2))).support.x, episodes.support.x)
    assert episodes[1].support.x.shape == (25, 8)
    assert len(list(episodes)) == 5
    assert episodes.to("cpu").way == 5


def test_unlabelled_examples_go_where_the_support_goes():
    episodes = kshot.testing.gaussian_episodes(4, unlabeled=3, distractors=2)
    unlabeled = episodes.support.unlabeled
    assert unlabeled.x.shape == (4, 21, 8)
    assert unlabeled.size == 21
    leaves, spec = pytree.tree_flatten(episodes)
    assert len(leaves) == 11
    assert torch.equal(pytree.tree_unflatten(leaves, spec).support.unlabeled.x, unlabeled.x)
    assert torch.vmap(lambda e: e.support.unlabeled.x.sum())(episodes).shape == (4,)
    assert episodes[1].support.unlabeled.x.shape == (21, 8)
    assert [len(part.support.unlabeled.mask) for part in episodes.chunks(3)] == [3, 1]
    assert torch.equal(concatenate(list(episodes.chunks(3))).support.unlabeled.x, unlabeled.x)
    assert episodes.widen(7).support.unlabeled is unlabeled
    assert episodes.to("cpu").support.unlabeled.mask.all()
    double = episodes.map(lambda t: t.double() if t.is_floating_point() else t)
    assert double.support.unlabeled.x.dtype == torch.float64
    assert episodes.query.unlabeled is None
    assert episodes.without_unlabeled().support.unlabeled is None
    assert kshot.testing.gaussian_episodes(4).support.unlabeled is None
    assert torch.equal(kshot.testing.gaussian_episodes(4).support.x, episodes.support.x)


def test_other_inputs_leave_unlabelled_ones_out_unless_given_theirs():
    support = kshot.testing.gaussian_episodes(1, unlabeled=3)[0].support
    assert support.replace_x(support.x * 2).unlabeled is None
    again = support.replace_x(support.x * 2, support.unlabeled.x * 2)
    assert torch.equal(again.unlabeled.x, support.unlabeled.x * 2)
    assert torch.equal(again.unlabeled.mask, support.unlabeled.mask)
    alone = Unlabeled.of({"a": torch.zeros(3, 2)})
    assert alone.size == 3
    assert not alone.padded
    assert support.replace_x(support.x, support.x).unlabeled.padded
