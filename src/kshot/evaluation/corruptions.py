"""What can be wrong with a task, as functions from episodes to episodes: labels, inputs, unequal classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kshot import randomness
from kshot.episodes import Episodes, first_tensor
from kshot.evaluation.subsets import first_shots, with_inputs

Keys = NDArray[np.uint64]

Corruption = Callable[[Tensor, float, Keys], Tensor]
"""Inputs `[T, n, *shape]`, how strongly, and a key for each example `[T, n]`, to inputs of the same shape."""


def add_noise(x: Tensor, level: float, keys: Keys) -> Tensor:
    """Gaussian noise of `level` standard deviations of the task's inputs."""
    drawn = randomness.normal(keys[..., None], np.arange(x[0, 0].numel()))
    spread = x.flatten(1).std(1).view(-1, *[1] * (x.ndim - 1))
    return x + level * spread * torch.from_numpy(drawn).to(x).view_as(x)


def blur(x: Tensor, level: float, keys: Keys) -> Tensor:
    """Images convolved with a Gaussian of `level` pixels standard deviation."""
    radius = max(1, round(3 * level))
    offset = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offset / level) ** 2)
    kernel = kernel / kernel.sum()
    images = x.flatten(0, 1)
    channels = images.shape[1]
    down, across = kernel.view(1, 1, -1, 1), kernel.view(1, 1, 1, -1)
    images = F.pad(images, [radius] * 4, mode="replicate")
    for part in (down, across):
        images = F.conv2d(images, part.expand(channels, *part.shape[1:]), groups=channels)
    return images.view_as(x)


def occlude(x: Tensor, level: float, keys: Keys) -> Tensor:
    """A square of `level` of the side of every image, somewhere, in the image's darkest value."""
    height, width = x.shape[-2:]
    inside = torch.ones(*x.shape[:2], 1, height, width, dtype=torch.bool, device=x.device)
    for dim, full in ((-2, height), (-1, width)):
        part = max(1, round(level * full))
        first = torch.from_numpy(randomness.integers(full - part + 1, keys, dim + 2)).to(x.device)
        place = torch.arange(full, device=x.device)
        within = (place >= first[..., None]) & (place < first[..., None] + part)
        inside &= within[:, :, None, :, None] if dim == -2 else within[:, :, None, None, :]
    return torch.where(inside, x.amin((-3, -2, -1), keepdim=True), x)


def less_contrast(x: Tensor, level: float, keys: Keys) -> Tensor:
    """Every image pulled towards its own mean by `level` of the way."""
    return torch.lerp(x, x.mean((-3, -2, -1), keepdim=True), level)


def drop_features(x: Tensor, level: float, keys: Keys) -> Tensor:
    """Each feature of each example is zero, the mean of a standardised table, with probability `level`."""
    drawn = randomness.uniform(keys[..., None], np.arange(x[0, 0].numel()))
    return x * torch.from_numpy(drawn >= level).to(x.device).view_as(x)


IMAGE_CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "noise": (add_noise, (0.25, 0.5, 1.0)),
    "blur": (blur, (0.5, 1.0, 2.0)),
    "occlusion": (occlude, (0.2, 0.35, 0.5)),
    "contrast": (less_contrast, (0.25, 0.5, 0.75)),
}
TABLE_CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "noise": (add_noise, (0.25, 0.5, 1.0)),
    "missing features": (drop_features, (0.1, 0.25, 0.5)),
}


def corrupt_queries(corruption: Corruption, level: float, seed: int) -> Callable[[Episodes], Episodes]:
    """A change that corrupts the queries: the examples were taken with care, what is to be predicted was not."""

    def change(episodes: Episodes) -> Episodes:
        x = first_tensor(episodes.query.x)
        return with_inputs(episodes, query_x=corruption(x, level, _keys(episodes, seed, "inputs", x.shape[1])))

    return change


def wrong_labels(share: float, seed: int) -> Callable[[Episodes], Episodes]:
    """A change that gives each support example another class of its task with that probability."""

    def change(episodes: Episodes) -> Episodes:
        support = episodes.support
        keys = _keys(episodes, seed, "labels", support.size)
        hit = torch.from_numpy(randomness.uniform(keys, 0) < share).to(support.device)
        # A random class of those present, but not the example's own.
        drawn = torch.from_numpy(randomness.uniform(keys[..., None], 1, np.arange(support.way))).to(support.device)
        own = F.one_hot(support.y, support.way).bool()
        other = drawn.masked_fill(own | ~support.classes.unsqueeze(-2), -1.0).argmax(-1)
        return replace(episodes, support=replace(support, y=torch.where(hit & support.mask, other, support.y)))

    return change


def wrong_targets(level: float, seed: int) -> Callable[[Episodes], Episodes]:
    """A change that adds noise of `level` standard deviations of the task's targets to those of the support."""

    def change(episodes: Episodes) -> Episodes:
        support = episodes.support
        keys = _keys(episodes, seed, "targets", support.size)
        drawn = torch.from_numpy(randomness.normal(keys[..., None], np.arange(support.y.shape[-1]))).to(support.y)
        spread = episodes.query.y.flatten(1).std(1).view(-1, 1, 1)
        return replace(episodes, support=replace(support, y=support.y + level * spread * drawn))

    return change


def imbalanced(shots: int, ratio: int, way: int) -> Tensor:
    """Shots of each class, `[way]`: from few to `ratio` times as many in even steps, `shots` on average.

    >>> imbalanced(3, 5, 5).tolist()
    [1, 2, 3, 4, 5]
    """
    low = 2 * shots / (1 + ratio)
    exact = torch.linspace(low, ratio * low, way) if way > 1 else torch.tensor([float(shots)])
    counts = exact.floor().clamp(min=1).long()
    # What rounding took away goes to the classes that lost most by it.
    order = (exact - counts).argsort(descending=True, stable=True)
    for i in range(max(0, shots * way - int(counts.sum()))):
        counts[order[i % way]] += 1
    return counts


def unequal_shots(shots: int, ratio: int) -> Callable[[Episodes], Episodes]:
    """A change that leaves the classes of a task unequal numbers of support examples; see `imbalanced`."""

    def change(episodes: Episodes) -> Episodes:
        counts = imbalanced(shots, ratio, episodes.way)
        return first_shots(episodes, counts.expand(len(episodes), episodes.way))

    return change


def _keys(episodes: Episodes, seed: int, purpose: str, count: int) -> Keys:
    """A key for each example of each task, `[T, count]`, which depends on the task and not on its batch."""
    if episodes.support_ids is not None:
        task = episodes.support_ids.sum(1)
    else:
        task = (first_tensor(episodes.support.x).flatten(1).double().sum(1) * 1e6).round().long()
    own = task.cpu().numpy()[:, None]
    return randomness.bits(seed, randomness.stream(f"stress/{purpose}"), own, np.arange(count))
