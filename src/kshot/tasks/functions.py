"""Families of functions of one variable: what regression tasks are drawn from.

A family is a frozen dataclass of ranges: a function's parameters are uniform in them, each a hash of the function's
key. Every family has `x`, the interval that inputs are uniform in, and `noise`, the standard deviation of what is added
to the targets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kshot import randomness
from kshot.errors import ConfigError
from kshot.tasks.options import real_range, whole_number

Keys = NDArray[np.uint64]
Reals = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Family(ABC):
    """A distribution of functions.

    Attributes:
        x: (lowest, highest) input.
        noise: standard deviation of the noise on the targets.
        fixed: whether a key determines a function's value everywhere (a Gaussian process is drawn at given inputs).
    """

    x: Interval = (-5.0, 5.0)
    noise: float = 0.0
    fixed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                object.__setattr__(self, field.name, real_range(field.name, value))
            elif isinstance(field.default, int):
                whole_number(field.name, value)
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigError(f"expected {field.name} to be a number of at least 0, got {value!r}")

    @abstractmethod
    def values(self, key: Keys, x: Reals) -> Reals:
        """The functions with keys `[T]` at the points x `[T, n]`: `[T, n]`."""

    def _parameter(self, name: str, key: Keys, count: int | None = None) -> Reals:
        """A parameter of each function, uniform in its range: `[T, 1]`, or `[T, count]`."""
        low, high = getattr(self, name)
        index = np.arange(1 if count is None else count)
        return np.asarray(low + (high - low) * randomness.uniform(key[:, None], randomness.stream(name), index))


@dataclass(frozen=True)
class Sinusoids(Family):
    """`A sin(x - phase)`: the regression tasks of MAML (Finn et al. 2017, section 5.1), with its ranges."""

    amplitude: Interval = (0.1, 5.0)
    phase: Interval = (0.0, math.pi)

    def values(self, key: Keys, x: Reals) -> Reals:
        return self._parameter("amplitude", key) * np.sin(x - self._parameter("phase", key))


@dataclass(frozen=True)
class Polynomials(Family):
    """`sum_i c_i (x / r)**i` up to `degree`, where `r` is the largest |x|, so that every power counts alike."""

    degree: int = 3
    coefficient: Interval = (-3.0, 3.0)

    def values(self, key: Keys, x: Reals) -> Reals:
        scaled = x / max(abs(self.x[0]), abs(self.x[1]))
        y = np.zeros_like(x)
        for c in self._parameter("coefficient", key, self.degree + 1).T:  # Horner's scheme
            y = y * scaled + c[:, None]
        return y


@dataclass(frozen=True)
class Lines(Family):
    """`slope x + intercept`: linear regression, whose adaptation has a closed form."""

    slope: Interval = (-1.0, 1.0)
    intercept: Interval = (-3.0, 3.0)

    def values(self, key: Keys, x: Reals) -> Reals:
        return self._parameter("slope", key) * x + self._parameter("intercept", key)


@dataclass(frozen=True)
class Steps(Family):
    """Piecewise constant: `steps` jumps at uniform places, a `height` between each two. No smooth model fits them."""

    steps: int = 2
    height: Interval = (-3.0, 3.0)

    def values(self, key: Keys, x: Reals) -> Reals:
        place = self.x[0] + (self.x[1] - self.x[0]) * randomness.uniform(
            key[:, None], randomness.stream("place"), np.arange(self.steps)
        )
        segment = (x[:, :, None] >= place[:, None, :]).sum(axis=2)
        return np.take_along_axis(self._parameter("height", key, self.steps + 1), segment, axis=1)


@dataclass(frozen=True)
class Sawtooth(Family):
    """`A (2 frac(x / period + shift) - 1)`: a ramp that jumps back once a period."""

    amplitude: Interval = (0.1, 5.0)
    period: Interval = (2.0, 6.0)
    shift: Interval = (0.0, 1.0)

    def values(self, key: Keys, x: Reals) -> Reals:
        turns = x / self._parameter("period", key) + self._parameter("shift", key)
        return self._parameter("amplitude", key) * (2.0 * (turns - np.floor(turns)) - 1.0)


@dataclass(frozen=True)
class GaussianProcesses(Family):
    """Draws of a Gaussian process with kernel `s**2 exp(-(x - x')**2 / (2 l**2))`, the tasks of neural processes.

    A function is drawn at the inputs of its task: `L z` with `L` the Cholesky factor of the kernel matrix, whose
    diagonal is raised by 1e-6 `s**2` so that near-equal inputs leave it positive definite.
    """

    length: Interval = (0.5, 2.0)
    scale: Interval = (0.5, 2.0)
    fixed: ClassVar[bool] = False

    def values(self, key: Keys, x: Reals) -> Reals:
        n = x.shape[1]
        distance = (x[:, :, None] - x[:, None, :]) / self._parameter("length", key)[:, :, None]
        factor = np.linalg.cholesky(np.exp(-0.5 * distance**2) + 1e-6 * np.eye(n))
        z = randomness.normal(key[:, None], randomness.stream("z"), np.arange(n))
        # A sum rather than a matrix product: BLAS may round differently when it gets other batches.
        return np.asarray(self._parameter("scale", key) * (factor * z[:, None, :]).sum(axis=2))


FAMILIES: dict[str, type[Family]] = {
    "sinusoids": Sinusoids,
    "lines": Lines,
    "polynomials": Polynomials,
    "steps": Steps,
    "sawtooth": Sawtooth,
    "gaussian_processes": GaussianProcesses,
}
"""The families that `kshot.tasks.load` knows by name."""


def family_options(family: type[Family]) -> dict[str, Any]:
    """The names and defaults of a family's options."""
    return {field.name: field.default for field in fields(family)}
