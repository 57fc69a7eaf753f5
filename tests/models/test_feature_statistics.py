"""The running mean and variance of features."""

from __future__ import annotations

import torch

from kshot.models import norms


def test_it_is_the_mean_of_all_examples_while_there_are_few_steps() -> None:
    seen, layer = [], norms.FeatureStatistics(3)
    layer.train()
    for size in (4, 1, 7):
        for part in range(2):  # as from two chunks of one step
            x = torch.randn(size + part, 3) * 2 + 5
            assert torch.equal(layer(x), x)
            seen.append(x)
        norms.commit(layer)
        if size == 4:
            first = torch.cat(seen)
            torch.testing.assert_close(layer.mean, first.mean(0))
            torch.testing.assert_close(layer.variance, first.var(0, correction=0), rtol=1e-4, atol=1e-5)
    means = torch.stack([torch.cat(seen[i : i + 2]).mean(0) for i in (0, 2, 4)])
    torch.testing.assert_close(layer.mean, means.mean(0))


def test_it_forgets_what_is_not_taken_and_sees_nothing_in_eval_mode() -> None:
    layer = norms.FeatureStatistics(3)
    layer(torch.randn(4, 3))
    norms.forget(layer)
    norms.commit(layer)
    layer.eval()(torch.randn(4, 3))
    norms.commit(layer)
    assert not layer.mean.any()
    assert not norms.has_batch_statistics(layer), "it normalises nothing"


def test_standardised_features_have_mean_zero_and_one_unit() -> None:
    layer = norms.FeatureStatistics(3)
    x = torch.randn(500, 3) * torch.tensor([4.0, 1.0, 0.0]) + torch.tensor([9.0, -2.0, 5.0])
    layer(x)
    norms.commit(layer)
    z = layer.standardise(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0) / z.std(0)[1], x.std(0) / x.std(0)[1], atol=1e-3, rtol=1e-3)
    assert torch.equal(layer.eval().standardise(x), z)
