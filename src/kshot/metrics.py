"""Scores of tasks and what may be concluded from them: accuracy, squared and bit error, intervals, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kshot.episodes import Examples
from kshot.errors import ConfigError
from kshot.functional import mask_logits

METRICS = {"classification": "accuracy", "regression": "mse", "sequence": "bit_error"}
"""How tasks of each kind are scored; of accuracies more is better, of errors less."""

LOWER_IS_BETTER = frozenset({"mse", "bit_error", "nll"})
"""The scores that are errors, the negative log-likelihood among them."""

PERCENT = frozenset({"accuracy", "bit_error"})
"""The scores that are shares, shown in percent."""


@dataclass(frozen=True)
class Interval:
    """A mean over tasks with the half width of its confidence interval.

    Unpacks as `mean, half_width`. Formatted with a percent sign it is in percent, without repeating the sign:

    >>> print(f"{Interval(0.98194, 0.00123, 1000):.2%}")
    98.19 ± 0.12
    >>> print(f"{Interval(0.05, 0.01, 9):+.1%}")
    +5.0 ± 1.0
    >>> print(Interval(0.6713, 0.0214, 600))
    0.671 ± 0.021

    Attributes:
        mean: of the tasks' scores.
        half_width: of the interval; infinite for fewer than two tasks.
        n: number of tasks.
    """

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    def __iter__(self) -> Iterator[float]:
        yield self.mean
        yield self.half_width

    def __format__(self, spec: str) -> str:
        spec, scale = (spec[:-1] + "f", 100.0) if spec.endswith("%") else (spec or ".3f", 1.0)
        half = format(scale * self.half_width, spec.lstrip("+")) if math.isfinite(self.half_width) else "?"
        return f"{scale * self.mean:{spec}} ± {half}"

    def __str__(self) -> str:
        return format(self, "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; an infinite half width becomes None."""
        finite = math.isfinite(self.half_width)
        return {"mean": self.mean, "half_width": self.half_width if finite else None, "n": self.n}


def accuracy(outputs: Tensor, query: Examples) -> Tensor:
    """The share of real queries that each task gets right.

    Args:
        outputs: logits `[..., n, way]`; those of classes that a task does not have are never chosen.
        query: labels `[..., n]`, `mask` and `classes`.

    Returns:
        `[...]`; NaN for a task without queries.
    """
    right = mask_logits(outputs, query.classes).argmax(-1) == query.y
    weight = query.mask.to(torch.float64)
    return (right * weight).sum(-1) / weight.sum(-1)


def mse(outputs: Tensor, query: Examples) -> Tensor:
    """The mean squared error over each task's real queries and all outputs.

    Args:
        outputs: `[..., n, d]`; or `[..., n, 2d]`, means followed by log-variances, of which the means count.
        query: targets `[..., n, d]`.

    Returns:
        `[...]`; NaN for a task without queries.
    """
    d = query.y.shape[-1]
    error = (outputs[..., :d] - query.y).to(torch.float64).square().mean(-1)
    weight = query.mask.to(torch.float64)
    return (error * weight).sum(-1) / weight.sum(-1)


def bit_error(outputs: Tensor, query: Examples) -> Tensor:
    """The share of bits that each task gets wrong, over its real queries.

    Args:
        outputs: logits of the bits `[..., n, d]`; above zero they say one.
        query: bits `[..., n, d]`, zeros and ones.

    Returns:
        `[...]`; NaN for a task without queries.
    """
    wrong = ((outputs > 0) != (query.y > 0.5)).to(torch.float64).mean(-1)
    weight = query.mask.to(torch.float64)
    return (wrong * weight).sum(-1) / weight.sum(-1)


def score(outputs: Tensor, query: Examples, form: str | None = None) -> Tensor:
    """`accuracy` where the labels are classes, `mse` where they are values: `[...]`.

    Args:
        form: of the outputs, as a learner declares it: with `"bits"` it is the `bit_error`.
    """
    if form == "bits":
        return bit_error(outputs, query)
    return mse(outputs, query) if query.y.is_floating_point() else accuracy(outputs, query)


def interval(values: Any, confidence: float = 0.95) -> Interval:
    """The mean of independent tasks' scores with its Student-t interval.

    It says how the mean would vary with other tasks, not with another training seed.

    Args:
        values: `[T]`, numbers.
        confidence: that the interval holds the true mean, were the scores normal.

    Raises:
        ConfigError: no values, or values that are not finite.
    """
    array = _values(values)
    n = len(array)
    if n < 2:
        return Interval(float(array.mean()), math.inf, n)
    half = student_t(n - 1, confidence) * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(float(array.mean()), half, n)


def paired_difference(a: Any, b: Any, confidence: float = 0.95) -> Interval:
    """The mean of `a - b` over the same tasks with its interval, in which what both find hard cancels.

    Raises:
        ConfigError: they are not as long as each other.
    """
    first, second = _values(a), _values(b)
    if len(first) != len(second):
        raise ConfigError(f"expected the scores of the same tasks, got {len(first)} and {len(second)} of them")
    return interval(first - second, confidence)


def difference(a: Any, b: Any, confidence: float = 0.95) -> Interval:
    """The difference of the means of two independent sets of tasks, with Welch's interval (1947)."""
    first, second = _values(a), _values(b)
    n = min(len(first), len(second))
    gap = float(first.mean() - second.mean())
    if n < 2:
        return Interval(gap, math.inf, n)
    u, v = (float(array.var(ddof=1)) / len(array) for array in (first, second))
    if u + v == 0:
        return Interval(gap, 0.0, n)
    freedom = (u + v) ** 2 / (u**2 / (len(first) - 1) + v**2 / (len(second) - 1))
    # Rounded down to a whole number of degrees of freedom: the interval gets no narrower by it.
    return Interval(gap, student_t(max(1, int(freedom)), confidence) * math.sqrt(u + v), n)


def proportion(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share of `n` independent trials (Wilson 1927): of use at few trials, and where all are right.

    >>> [round(end, 3) for end in proportion(25, 25)]
    [0.867, 1.0]
    """
    if not 0 <= right <= n or n < 1:
        raise ConfigError(f"expected a number of successes in n >= 1 trials, got {right} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, square = right / n, z * z / n
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@lru_cache(maxsize=256)
def student_t(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t distribution: `|t|` stays below it with that probability.

    Up to 200 degrees of freedom from the exact series of the distribution (Abramowitz and Stegun 26.7.3 and 26.7.4) by
    bisection; above from Cornish and Fisher's expansion around the normal quantile (26.7.5), then exact to 1e-9.

    >>> round(student_t(9), 4), round(student_t(999), 4)
    (2.2622, 1.9623)
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ConfigError(f"expected freedom >= 1 and a confidence in (0, 1), got {freedom} and {confidence}")
    if freedom > 200:
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        return (
            z
            + (z**3 + z) / (4 * freedom)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        )
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(freedom))
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, freedom) < confidence else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _probability(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle))."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):  # the powers of the cosine up to freedom - 2
        total += term
        term *= square * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from accuracy.

    Attributes:
        error: expected calibration error: the mean over examples of |accuracy - confidence| of their bin.
        confidence, accuracy: means of each bin that holds examples.
        count: examples of each such bin.
    """

    error: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


def calibration(probabilities: Tensor, y: Tensor, mask: Tensor | None = None, bins: int = 15) -> Calibration:
    """Expected calibration error over equally wide bins of confidence (Naeini et al. 2015; Guo et al. 2017).

    Args:
        probabilities: `[..., n, way]`, each row summing to one.
        y: labels `[..., n]`.
        mask: bool `[..., n]`, which of them count.
    """
    confidence, predicted = probabilities.max(-1)
    right = predicted == y
    if mask is not None:
        confidence, right = confidence[mask], right[mask]
    return calibration_of(confidence, right, bins)


def calibration_of(confidence: Tensor, right: Tensor, bins: int = 15) -> Calibration:
    """The same of each prediction's confidence and whether it was right, both of one shape."""
    confidence, right = confidence.flatten().to(torch.float64), right.flatten().to(torch.float64)
    index = (confidence * bins).long().clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins)
    sums = [count.new_zeros(bins, dtype=torch.float64).index_add_(0, index, value) for value in (confidence, right)]
    filled = count > 0
    mean, share = (total[filled] / count[filled] for total in sums)
    error = float(((share - mean).abs() * count[filled]).sum() / max(1, len(index)))
    return Calibration(error, tuple(mean.tolist()), tuple(share.tolist()), tuple(count[filled].tolist()))


def _values(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(array):
        raise ConfigError("expected the scores of at least one task, got none")
    if not bool(np.isfinite(array).all()):
        bad = int((~np.isfinite(array)).sum())
        raise ConfigError(
            f"{bad} of the {len(array)} tasks have no finite score: the learner diverged on them, or they have no "
            "queries. Lower its inner learning rate or its steps"
        )
    return array
