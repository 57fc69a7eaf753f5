"""SNAIL against section 3 of Mishra et al. 2018, as a sequence of which the query is the last."""

from __future__ import annotations

import math

import pytest
import torch
from by_hand import F64, WAY, examples, queries, randomised
from torch import Tensor
from torch.nn import functional as F

import kshot
from kshot import Examples, models

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def snail(max_support: int, sizes=((3, 2), (5, 4), (2, 3)), **options) -> kshot.SNAIL:
    learner = kshot.SNAIL(models.MLP(5, hidden=()), max_support=max_support, filters=3, sizes=sizes, **options)
    randomised(learner.double())
    return learner.eval()


def dense(block: torch.nn.Module, h: Tensor, dilation: int) -> Tensor:
    """concat(h, tanh(xf) sigmoid(xg)), both of a causal convolution of two places of `h` `[channels, length]`."""
    kernel = torch.stack([block.before.weight, block.now.weight], -1)  # the place so far before, and the place itself
    xf, xg = F.conv1d(F.pad(h, (dilation, 0)), kernel, block.now.bias, dilation=dilation).chunk(2)
    return torch.cat([h, xf.tanh() * xg.sigmoid()])


def attended(block: torch.nn.Module, h: Tensor) -> Tensor:
    """concat(h, softmax(q k' / sqrt(d)) v), where no place looks ahead."""
    q, k, v = (
        F.conv1d(h, layer.weight[:, :, None], layer.bias).unbind(-1) for layer in (block.query, block.key, block.value)
    )
    read = []
    for t in range(h.shape[-1]):
        logits = torch.stack([q[t] @ k[s] / math.sqrt(len(k[s])) for s in range(t + 1)])
        weights = logits.exp() / logits.exp().sum()
        read.append(sum(w * v[s] for s, w in enumerate(weights)))
    return torch.cat([h, torch.stack(read, -1)])


def by_hand(learner: kshot.SNAIL, h: Tensor, levels: int) -> Tensor:
    """What the learner makes of the last place: attention, and twice a TC block and attention."""
    blocks = iter(learner.blocks)
    h = attended(next(blocks), h)
    for _ in range(2):
        for level in range(levels):
            h = dense(next(blocks), h, 2**level)
        h = attended(next(blocks), h)
    assert next(blocks, None) is None
    return learner.head.weight @ h[:, -1] + learner.head.bias


def expected(learner: kshot.SNAIL, support: Examples, x: Tensor, levels: int) -> Tensor:
    """Of each query: its features and no label, behind the real examples with theirs."""
    labels = support.y if support.y.is_floating_point() else F.one_hot(support.y, WAY).to(F64)
    past = torch.cat([support.x, labels], 1)[support.mask]
    rows = [torch.cat([past, F.pad(row, (0, labels.shape[1]))[None]]) for row in x]
    return torch.stack([by_hand(learner, h.T, levels) for h in rows])


@pytest.mark.parametrize(("max_support", "levels"), [(7, 3), (8, 4), (25, 5)])
def test_snail_is_its_convolutions_and_lookups_in_turn(max_support, levels):
    """ceil(log2(length)) dense blocks make a TC block; dilations beyond the support reach nothing."""
    learner, support, x = snail(max_support, way=WAY), examples(5), queries(5)
    assert levels == math.ceil(math.log2(max_support + 1))
    found = learner.predict(learner.adapt(support), x)
    torch.testing.assert_close(found, expected(learner, support, x, levels), **EXACT)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_snail_of_values_reads_targets_with_their_inputs(n):
    """As many examples as a dilation, one more, one less."""
    learner, x = snail(4, out_features=2), queries(5)
    support = Examples.of(queries(5, n=n, seed=2), queries(2, n=n, seed=3))
    found = learner.predict(learner.adapt(support), x)
    assert found.shape == (5, 2)
    torch.testing.assert_close(found, expected(learner, support, x, 3), **EXACT)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
def test_convolutions_reach_from_the_query_to_the_first_example_and_no_further_than_they_have_to(n):
    """Without what attention reads: each level doubles the reach, which has to be n + 1 places."""
    learner = snail(n, sizes=((2, 2), (2, 2)), out_features=1)
    attentions = [block for block in learner.blocks if hasattr(block, "value")]
    with torch.no_grad():
        for p in (p for block in attentions for p in block.value.parameters()):
            p.zero_()
    reach = 2 ** (len(learner.blocks) - len(attentions))
    assert reach // 2 < n + 1 <= reach
    support = Examples.of(queries(5, n=n).requires_grad_(), queries(1, n=n, seed=2))
    learner.predict(learner.adapt(support), queries(5, n=1)).sum().backward()
    assert bool((support.x.grad != 0).any(-1).all())
