from __future__ import annotations

import numpy as np
import pytest

from kshot import randomness
from kshot.datasets.clusters import partitions, principal_components
from kshot.errors import ConfigError


def blobs(per: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Six groups far apart, two along each of three dimensions."""
    centre = 10 * np.concatenate([np.eye(3), -np.eye(3)])
    owner = np.repeat(np.arange(6), per)
    return centre[owner] + 0.1 * randomness.normal(seed, np.arange(6 * per)[:, None], np.arange(3)), owner


def test_a_partition_finds_groups_that_are_there() -> None:
    x, owner = blobs()
    (found,) = partitions(x, 6)
    assert len({(a, b) for a, b in zip(found.tolist(), owner.tolist(), strict=True)}) == 6


def test_partitions_are_several_and_deterministic() -> None:
    x = randomness.normal(0, np.arange(100)[:, None], np.arange(5))
    found = partitions(x, 8, count=4, seed=3)
    assert found.shape == (4, 100)
    assert found.min() >= 0
    assert found.max() < 8
    assert len({row.tobytes() for row in found}) == 4
    assert np.array_equal(found, partitions(x, 8, count=4, seed=3))
    assert np.array_equal(found[:2], partitions(x, 8, count=2, seed=3))
    assert not np.array_equal(found[1:], partitions(x, 8, count=4, seed=4)[1:])


def test_what_cannot_be_clustered() -> None:
    with pytest.raises(ConfigError, match="at most 4 clusters, one for each example, got 5: ask for fewer"):
        partitions(np.zeros((4, 2)), 5)
    with pytest.raises(ConfigError, match="an embedding of finite numbers, got NaN or infinity"):
        partitions(np.full((4, 2), np.nan), 2)
    assert partitions(np.zeros((4, 2)), 2).tolist() == [[0] * 4]


def test_principal_components_keep_distances() -> None:
    x, _ = blobs()
    z = principal_components(x, 64)
    assert z.shape == (120, 3)
    assert z.dtype == np.float32
    assert np.allclose(np.linalg.norm(z[0] - z[1:], axis=1), np.linalg.norm(x[0] - x[1:], axis=1), atol=1e-3)
    assert principal_components(x, 2).shape == (120, 2)
