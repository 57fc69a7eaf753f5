"""Episodes of made-up numbers: how long they take depends on their shapes alone."""

from __future__ import annotations

import torch
from torch import nn

from kshot.episodes import Episodes, Examples
from kshot.models import Backbone


def random_episodes(tasks: int, way: int, shot: int, query: int, shape: tuple[int, ...], seed: int = 0) -> Episodes:
    """N-way tasks without padding, whose examples `[*shape]` are normal around a mean of their class."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(tasks, way, *shape, generator=generator)

    def part(each: int) -> Examples:
        y = torch.arange(way).repeat(each).expand(tasks, -1).contiguous()
        x = means.repeat(1, each, *[1] * len(shape)) + torch.randn(tasks, way * each, *shape, generator=generator)
        mask, classes = torch.ones(y.shape, dtype=torch.bool), torch.ones(tasks, way, dtype=torch.bool)
        return Examples(x, y, mask, classes, padded=False)

    return Episodes(part(shot), part(query), torch.arange(way).expand(tasks, -1).contiguous())


class Scaling(Backbone):
    """Features that are given, each times a weight of its own: the least that a gradient can go back to.

    Args:
        size: entries of a feature vector.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.out_features = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight
