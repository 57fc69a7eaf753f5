"""Partitions of unlabelled examples: k-means over an embedding in random scalings of its dimensions."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from kshot import randomness
from kshot.errors import ConfigError

Reals = NDArray[np.floating]
Labels = NDArray[np.int64]

SCALE, START = (randomness.stream(f"clusters/{name}") for name in ("scale", "start"))


def partitions(embedding: Reals, clusters: int, count: int = 1, seed: int = 0) -> Labels:
    """Partitions of examples into clusters (CACTUs: Hsu, Levine, Finn 2019).

    Each is k-means over the embedding, whose dimensions are scaled by other factors: the first partition by none, the
    others by factors uniform in [0, 1], as in the paper's code.

    Args:
        embedding: `[n, d]`.
        clusters: in each partition.
        count: of partitions.
        seed: of factors and of k-means. The same clusters on one machine with as many threads.

    Returns:
        int64 `[count, n]`: the cluster of each example, in `[0, clusters)`. Some may be empty.

    Raises:
        ConfigError: more clusters than examples, or numbers that are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    n, dimensions = embedding.shape
    if clusters > n:
        raise ConfigError(f"expected at most {n} clusters, one for each example, got {clusters}: ask for fewer")
    if not np.isfinite(embedding).all():
        raise ConfigError("expected an embedding of finite numbers, got NaN or infinity: check what computes it")
    found = np.empty((count, n), np.int64)
    for p in range(count):
        factors = randomness.uniform(seed, SCALE, p, np.arange(dimensions)) if p else np.ones(dimensions)
        start = int(randomness.integers(2**31, seed, START, p))
        model = KMeans(clusters, n_init=1, max_iter=50, random_state=start)
        with warnings.catch_warnings():
            # Fewer distinct examples than clusters: some stay empty, and no task is made of them.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found[p] = model.fit_predict((embedding * factors).astype(np.float32))
    return found


def principal_components(x: Reals, dimensions: int) -> Reals:
    """Examples `[n, d]` by their first principal components: float32 `[n, min(dimensions, n, d)]`."""
    from sklearn.decomposition import PCA

    # Of many features the solver takes a randomized shortcut, hence the seed.
    model = PCA(min(dimensions, *x.shape), random_state=0)
    return np.asarray(model.fit_transform(x), dtype=np.float32)
