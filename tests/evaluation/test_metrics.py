"""Scores against hand-made cases, intervals against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kshot import metrics
from kshot.episodes import Examples
from kshot.errors import ConfigError


def query(y: torch.Tensor, mask: torch.Tensor | None = None, way: int = 3) -> Examples:
    mask = torch.ones(y.shape[:2], dtype=torch.bool) if mask is None else mask
    classes = torch.ones(len(y), 0 if y.is_floating_point() else way, dtype=torch.bool)
    return Examples(torch.zeros(*mask.shape, 1), y, mask, classes)


def test_accuracy_counts_real_queries_and_present_classes_only():
    logits = torch.tensor([[[9.0, 1, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]]]).repeat(2, 1, 1)
    y = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0]])
    examples = query(y, torch.tensor([[True] * 4, [True, True, True, False]]))
    assert metrics.accuracy(logits, examples).tolist() == pytest.approx([3 / 4, 2 / 3])
    examples.classes[0, 2] = False  # the third query's best class is gone: its first, on a tie, is class 0
    assert metrics.accuracy(logits, examples).tolist() == pytest.approx([3 / 4, 2 / 3])
    examples.y[0, 2] = 0
    assert metrics.accuracy(logits, examples)[0] == 1


def test_mse_ignores_padding_and_takes_the_means_of_a_distribution():
    y = torch.tensor([[[1.0], [2.0], [100.0]]])
    examples = query(y, torch.tensor([[True, True, False]]))
    assert metrics.mse(torch.zeros(1, 3, 1), examples).item() == pytest.approx(2.5)
    assert metrics.mse(torch.tensor([[[1.0, 7.0], [2.0, 7.0], [0.0, 7.0]]]), examples).item() == 0
    assert metrics.score(torch.zeros(1, 3, 1), examples).item() == pytest.approx(2.5)


@given(st.integers(1, 5000), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_quantile_of_t_is_scipys(freedom, confidence):
    expected = stats.t.ppf(0.5 + confidence / 2, freedom)
    assert metrics.student_t(freedom, confidence) == pytest.approx(expected, rel=1e-7)


def test_an_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=37)
    found = metrics.interval(torch.from_numpy(values))
    low, high = stats.t.interval(0.95, 36, values.mean(), stats.sem(values))
    assert (found.low, found.high, found.n) == pytest.approx((low, high, 37))
    mean, half_width = found
    assert (mean, half_width) == (found.mean, found.half_width)


def test_a_difference_is_welchs():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, 50), rng.normal(0, 3, 20)
    found = metrics.difference(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    # Degrees of freedom are rounded down, so it may be a little wider, never narrower.
    assert found.low <= expected.low + 1e-9
    assert found.low == pytest.approx(expected.low, rel=0.02)
    assert metrics.difference([1.0, 1.0], [0.5, 0.5]).half_width == 0


def test_a_paired_difference_cancels_what_both_find_hard():
    hard = np.random.default_rng(2).normal(0, 10, 100)
    found = metrics.paired_difference(hard + 1, hard)
    assert found.mean == pytest.approx(1)
    assert found.half_width < 1e-9
    with pytest.raises(ConfigError, match="expected the scores of the same tasks, got 2 and 3"):
        metrics.paired_difference([1, 2], [1, 2, 3])


def test_intervals_as_text_and_json():
    assert f"{metrics.Interval(0.98194, 0.00123, 1000):.2%}" == "98.19 ± 0.12"
    assert f"{metrics.Interval(0.1, math.inf, 1):.1%}" == "10.0 ± ?"
    assert metrics.interval([0.5]).to_dict() == {"mean": 0.5, "half_width": None, "n": 1}
    with pytest.raises(ConfigError, match="at least one task, got none"):
        metrics.interval([])
    with pytest.raises(ConfigError, match=r"1 of the 2 tasks have no finite score: .*diverged.*Lower its inner"):
        metrics.interval([1.0, math.nan])


def test_calibration_of_a_known_case():
    probabilities = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]])
    found = metrics.calibration(probabilities, torch.tensor([0, 1, 0, 1]), bins=10)
    # The 0.8 bin is right half the time, off by 0.3; the 0.6 bin always, off by 0.4.
    assert found.error == pytest.approx(0.35)
    assert found.count == (2, 2)
    assert found.accuracy == pytest.approx((1.0, 0.5))
    masked = metrics.calibration(
        probabilities, torch.tensor([0, 1, 0, 1]), torch.tensor([True, True, False, False]), 10
    )
    assert masked.error == pytest.approx(0.3)


def test_calibrated_probabilities_have_no_error():
    rng = np.random.default_rng(3)
    p = torch.from_numpy(rng.uniform(0.5, 1, 20_000))
    right = torch.from_numpy(rng.uniform(size=20_000)) < p
    assert metrics.calibration(torch.stack([p, 1 - p], -1), torch.where(right, 0, 1)).error < 0.01
