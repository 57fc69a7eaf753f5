"""Task sources and learners of a few seconds' work."""

from __future__ import annotations

import numpy as np
import torch

import kshot
from kshot import randomness
from kshot.datasets import IdentityTransform, ImageTransform, Pool
from kshot.tasks import TaskSource, make_split

SIZES = {"train": 24, "val": 8, "test": 10}
EXAMPLES = 20
FEATURES = 8


def vectors(classes: int, seed: int) -> torch.Tensor:
    """`[classes, EXAMPLES, FEATURES]`: Gaussian clouds, told apart by the first three features only."""
    c, n, d = np.arange(classes)[:, None, None], np.arange(EXAMPLES)[:, None], np.arange(FEATURES)
    means = randomness.normal(seed, 1, c, 0, d)
    noise = randomness.normal(seed, 2, c, n, d)
    return torch.from_numpy(np.where(d < 3, 2 * means + noise, 3 * noise)).float()


def pools() -> dict[str, Pool]:
    x = vectors(sum(SIZES.values()), 0)
    names = [f"{'abc'[i % 3]}/{i:02}" for i in range(len(x))]
    whole = Pool.from_arrays(x.flatten(0, 1), np.repeat(names, EXAMPLES))
    order = 5 * torch.arange(len(whole)) % len(whole)  # every kind in every split
    parts = order.split(list(SIZES.values()))
    return {name: whole.select(part) for name, part in zip(SIZES, parts, strict=True)}


def vector_source(way: int = 5, shot: int = 1, query: int = 5) -> TaskSource:
    transform = IdentityTransform()
    splits = {n: make_split(p, transform, n, way=way, shot=shot, query=query) for n, p in pools().items()}
    return TaskSource("clouds", splits, example_shape=(FEATURES,), transform=transform)


def image_source(way: int = 3, query: int = 3) -> TaskSource:
    """16x16 images of a bright square at a place of the class's own, with noise."""
    total = 18
    image = torch.from_numpy(randomness.integers(60, 0, np.arange(total * 12 * 256))).view(total, 12, 1, 16, 16)
    for c in range(total):
        row, column = 3 * (c % 5), 3 * (c // 5)
        image[c, :, :, row : row + 4, column : column + 4] = 250
    whole = Pool.from_arrays(
        image.to(torch.uint8).flatten(0, 1), np.repeat([f"place {c:02}" for c in range(total)], 12)
    )
    transform = ImageTransform(size=(16, 16), channels=1, mean=(0.2,), std=(0.3,))
    parts = {"train": range(10), "val": range(10, 13), "test": range(13, 18)}
    splits = {
        n: make_split(whole.select(list(r)), transform, n, way=way, shot=1, query=query) for n, r in parts.items()
    }
    return TaskSource("places", splits, example_shape=(1, 16, 16), transform=transform)


def protonet(features: int = FEATURES) -> kshot.ProtoNet:
    with randomness.seeded(0):
        return kshot.ProtoNet(kshot.models.MLP(features, hidden=(16,), out_features=8))


def train(learner: kshot.Learner, source: TaskSource, steps: int = 80, lr: float = 0.01) -> kshot.Learner:
    optimizer = torch.optim.Adam(learner.parameters(), lr=lr)
    learner.train()
    for episodes in source.train.batches(4, steps=steps, seed=0):
        loss = learner(episodes, mode="native" if learner.native else "vmap").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learner.provenance = {"examples": 2000, "seconds": 3.0, "meta_batch": 4}
    return learner.eval()
