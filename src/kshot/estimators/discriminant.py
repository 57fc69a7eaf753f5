"""Nearest class means in the metric of a shrunken covariance: what classifies plain features without a meta-learner.

Linear discriminant analysis with one within-class covariance for all classes, shrunk towards a multiple of the identity
(Chen, Wiesel, Eldar, Hero 2010), and equal class priors, since the number of examples that someone labelled says
nothing about how often a class occurs. Everything is in closed form.

Chosen by measurement (`python benchmarks/heads.py`), mean accuracy on digits, iris, wine and breast cancer in %:

================================================  ======  ======  ======  =======  =======
head, on standardised features                    1 shot  2 shot  5 shot  10 shot  20 shot
================================================  ======  ======  ======  =======  =======
nearest means, Euclidean                            68.2    80.5    87.8     89.7     90.5
ridge on one-hot labels, alpha by leave-one-out     66.7    77.6    85.7     89.0     91.0
this one                                            68.2    81.4    90.2     93.1     94.7
================================================  ======  ======  ======  =======  =======
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TEMPERATURES = 2.0 ** np.arange(-9.0, 2.0, 0.5)
_ONE_SHOT = 4.0


@dataclass(frozen=True)
class Discriminant:
    """A fitted head.

    Attributes:
        centre, scale: of the features `[d]`.
        metric: `(a, v, b)`: a squared distance is that within the columns of `v` `[d, r]` divided by `b` `[r]`,
            plus the rest divided by `a`.
        means: of the standardised classes `[way, d]`.
        temperature: what squared distances are multiplied with, for honest probabilities.
        shrinkage: that was used, in [0, 1].
    """

    centre: Array
    scale: Array
    metric: tuple[float, Array, Array]
    means: Array
    temperature: float
    shrinkage: float

    @classmethod
    def fit(cls, x: Array, y: NDArray[np.int64], shrinkage: float | None = None) -> Discriminant:
        """Fits a head.

        Args:
            x: features `[n, d]`.
            y: classes `[n]`, 0 to way - 1, each with an example.
            shrinkage: of the covariance, 0 (as estimated) to 1 (Euclidean distances); None estimates it.
        """
        centre, scale = standardiser(x)
        x = (x - centre) / scale
        counts = np.bincount(y)
        way, n, d = len(counts), *x.shape
        means = np.zeros((way, d))
        np.add.at(means, y, x)
        means /= counts[:, None]
        residuals, freedom = x - means[y], n - way
        _, singular, vt = np.linalg.svd(residuals, full_matrices=False)
        total = float((singular**2).sum())
        if total <= 1e-20 * max(x.size, 1):  # one shot, or no variation within classes: nothing tells the metric
            head = cls(centre, scale, (1.0, np.zeros((d, 0)), np.zeros(0)), means, 1.0, 1.0)
            pairs = head._distances(means)
            # With the mean distance between classes as the unit; the best of 2, 4, 8 and 16 on the data above.
            spread = pairs.sum() / (way * (way - 1))
            return cls(centre, scale, head.metric, means, _ONE_SHOT / spread if spread > 0 else 1.0, 1.0)
        variances = singular**2 / freedom
        if shrinkage is None:
            shrinkage = approximating_shrinkage(variances, d, freedom)
        mean_variance = total / freedom / d
        a = max(shrinkage, 1e-9) * mean_variance
        head = cls(centre, scale, (a, vt.T, (1 - shrinkage) * variances + a), means, 1.0, shrinkage)
        return cls(centre, scale, head.metric, means, head._calibrate(x, y, counts, freedom), shrinkage)

    def probabilities(self, x: Array) -> Array:
        """`[n, d] -> [n, way]`."""
        found: Array = softmax(-0.5 * self.temperature * self._distances((x - self.centre) / self.scale))
        return found

    def _whiten(self, z: Array) -> Array:
        """Standardised features in coordinates where the metric is Euclidean."""
        a, v, b = self.metric
        inside = z @ v
        white: Array = (z - inside @ v.T) / np.sqrt(a) + (inside / np.sqrt(b)) @ v.T
        return white

    def _distances(self, z: Array) -> Array:
        return squared_distances(self._whiten(z), self._whiten(self.means))

    def _calibrate(self, x: Array, y: NDArray[np.int64], counts: NDArray[np.int64], freedom: int) -> float:
        """The temperature of the highest leave-one-out likelihood.

        Leaving out example i of a class of m moves the class's mean: the distance to it grows by (m / (m - 1))^2. It
        takes m / (m - 1) r r' from the scatter, r = x_i - mean, so that with S the covariance, the shrinkage kept, and
        w = (1 - shrinkage) / freedom * m / (m - 1), by the matrix inversion lemma

            inverse(S - w r r') = inverse(S) + inverse(S) r r' inverse(S) * w / (1 - w r' inverse(S) r).
        """
        several = counts[y] > 1
        if not several.any():
            return 1.0
        x, y = x[several], y[several]
        a, c = self._whiten(x), self._whiten(self.means)
        rows, grown = np.arange(len(y)), counts[y] / (counts[y] - 1)
        r = a - c[y]
        length = (r**2).sum(1)
        w = (1 - self.shrinkage) / freedom * grown
        distances, along = squared_distances(a, c), (a * r).sum(1)[:, None] - r @ c.T
        distances[rows, y] = length * grown**2
        along[rows, y] = length * grown
        distances += (w / np.maximum(1 - w * length, 1e-6))[:, None] * along**2
        losses = [-log_softmax(-0.5 * t * distances)[rows, y].sum() for t in _TEMPERATURES]
        return float(_TEMPERATURES[int(np.argmin(losses))])


def approximating_shrinkage(variances: Array, d: int, n: int) -> float:
    """The oracle-approximating shrinkage of a covariance (Chen et al. 2010, eq. 23).

    Args:
        variances: its eigenvalues; those that are left out are zero.
        d: its size.
        n: degrees of freedom that it was estimated with.
    """
    trace, square = float(variances.sum()), float((variances**2).sum())
    below = (n + 1 - 2 / d) * (square - trace**2 / d)
    if below <= 0:
        return 1.0
    return float(min(1.0, ((1 - 2 / d) * square + trace**2) / below))


def standardiser(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each feature; 1 where one does not vary beyond rounding."""
    centre, scale = x.mean(0), x.std(0)
    constant = scale <= 1e-12 * np.maximum(np.abs(centre), np.finfo(np.float64).tiny)
    return centre, np.where(constant, 1.0, scale)


def squared_distances(a: Array, b: Array) -> Array:
    """Between the rows of `a` `[n, d]` and of `b` `[m, d]`: `[n, m]`."""
    centre = b.mean(0)  # the cancellation error grows with the distance from the origin
    a, b = a - centre, b - centre
    distances: Array = (a**2).sum(1)[:, None] - 2 * (a @ b.T) + (b**2).sum(1)
    return np.maximum(distances, 0.0)


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def softmax(logits: Array) -> Array:
    result: Array = np.exp(log_softmax(logits))
    return result
