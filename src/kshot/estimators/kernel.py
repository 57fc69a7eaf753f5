"""Kernel ridge regression that chooses its own regularisation: what fits plain features without a meta-learner.

A squared-exponential kernel over standardised features, an unpenalised mean, and both hyperparameters by leave-one-out
in closed form (Rasmussen, Williams 2006, sec. 5.4.2). From a handful of examples no length scale can be told, and the
square root of d is better than a chosen one.

Chosen by measurement (`python benchmarks/heads.py`), mean squared error as a fraction of the variance, on diabetes,
wine's alcohol, two of Friedman's functions, a linear function, a sine and a step:

================================  ==========  =====  =====  =====
head                              5 examples     10     20     50
================================  ==========  =====  =====  =====
the mean                               1.20    1.10   1.05   1.02
linear ridge, leave-one-out            1.11    0.84   0.53   0.42
kernel, length scale 1                 0.94    0.57   0.39   0.25
kernel, length scale 1, 2 or 4         1.01    0.60   0.35   0.23
================================  ==========  =====  =====  =====
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kshot.estimators.discriminant import Array, squared_distances, standardiser

_ALPHAS = 10.0 ** np.arange(-4.0, 3.5, 0.5)
_LENGTHS = (1.0, 2.0, 4.0)
_FEW = 15


@dataclass(frozen=True)
class KernelRidge:
    """A fitted head.

    Attributes:
        centre, scale: of the features `[d]`.
        x: the standardised examples `[n, d]`.
        offset: `[n, 1]`, the mean of the kernel's columns.
        weights: `[n, outputs]`.
        mean: of the targets `[outputs]`.
        length: the kernel's length scale, in units of sqrt(d).
        alpha: the regularisation, in units of the kernel's diagonal.
    """

    centre: Array
    scale: Array
    x: Array
    offset: Array
    weights: Array
    mean: Array
    length: float
    alpha: float

    @classmethod
    def fit(cls, x: Array, y: Array, alpha: float | None = None) -> KernelRidge:
        """Fits a head in O(n^3).

        Args:
            x: features `[n, d]`.
            y: targets `[n, outputs]`.
            alpha: regularisation; None chooses it by leave-one-out.
        """
        centre, scale = standardiser(x)
        x, mean, n = (x - centre) / scale, y.mean(0), len(x)
        y = y - mean
        unit = y.std(0)
        targets = y / np.where(unit > 0, unit, 1.0)  # so that each output has the same say
        best: tuple[float, KernelRidge] | None = None
        for length in _LENGTHS[:1] if n < _FEW else _LENGTHS:
            kernel = _kernel(x, x, length)
            offset = kernel.mean(1, keepdims=True)
            values, vectors = np.linalg.eigh(kernel - offset - offset.T + offset.mean())
            values, rotated = values.clip(0), vectors.T @ targets
            for a in _ALPHAS if alpha is None else [alpha]:
                fraction = values / (values + a)
                # e_i / (1 - h_ii), where h includes the mean's own 1/n.
                leverage = 1 / n + (vectors**2) @ fraction
                errors = (targets - vectors @ (fraction[:, None] * rotated)) / (1 - leverage).clip(1e-9)[:, None]
                score = float((errors**2).mean())
                if best is None or score < best[0]:
                    weights = vectors @ ((vectors.T @ y) / (values + a)[:, None])
                    best = score, cls(centre, scale, x, offset, weights, mean, length, float(a))
        assert best is not None
        return best[1]

    def predict(self, x: Array) -> Array:
        """`[n, d] -> [n, outputs]`."""
        kernel = _kernel((x - self.centre) / self.scale, self.x, self.length)
        centred = kernel - kernel.mean(1, keepdims=True) - self.offset.T + self.offset.mean()
        values: Array = centred @ self.weights + self.mean
        return values


def _kernel(a: Array, b: Array, length: float) -> Array:
    kernel: NDArray[np.float64] = np.exp(-0.5 * squared_distances(a, b) / (length**2 * max(a.shape[1], 1)))
    return kernel
