"""From a printed letter to something like handwriting: distorted pictures, many at once.

Every number is the hash of (seed, letter, example), so an example depends on neither the other classes nor their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kshot import randomness
from kshot.datasets.glyphs_fonts import BOX, CANVAS

_CHUNK = 128  # pictures at a time, so that the sampling grids stay in the cache: twice as fast as 1,024


@dataclass(frozen=True)
class Hand:
    """How far a hand strays from print; standard deviations where no range is given.

    Mild on purpose: five-way one-shot stays a task that a small network solves after minutes. Sizes go from a letter
    with wide margins to one that the frame cuts, because pictures from elsewhere (scikit-learn's digits) fill theirs.

    Attributes:
        smallest, largest: the letter's longer side, as a share of the picture's side, before the rest distorts it.
        aspect: of the logarithm of width over height.
        rotation: radians.
        shear: horizontal displacement over height.
        shift: of the centre, uniform in +- this share of the picture's side.
        wobble: of a smooth displacement (a 4 x 4 grid of random vectors, interpolated), as a share of the side.
        thickest: strokes are widened by a random number of half pixels (of 28) on each side, 0 to this many.
        blur: the largest share of a blurred copy (standard deviation 1.5 pixels of 28), uniform from 0.
    """

    smallest: float = 0.6
    largest: float = 1.1
    aspect: float = 0.12
    rotation: float = 0.1
    shear: float = 0.1
    shift: float = 0.03
    wobble: float = 0.025
    thickest: int = 2
    blur: float = 0.6


def warp(ink: Tensor, keys: NDArray[np.uint64], size: int, hand: Hand = Hand()) -> Tensor:
    """Distorts pictures.

    Args:
        ink: uint8 `[n, CANVAS, CANVAS]` from `draw_letters`.
        keys: uint64 `[n]`, the random key of each result.
        size: the side of the results in pixels.
        hand: how much.

    Returns:
        uint8 `[n, 1, size, size]`, bright on dark.
    """
    parts = [
        _warp(ink[first : first + _CHUNK], keys[first : first + _CHUNK], size, hand)
        for first in range(0, len(ink), _CHUNK)
    ]
    return torch.cat(parts) if parts else torch.zeros((0, 1, size, size), dtype=torch.uint8)


def _warp(ink: Tensor, keys: NDArray[np.uint64], size: int, hand: Hand) -> Tensor:
    fine = 2 * size  # sampled at twice the size and averaged, against jagged edges
    x = F.grid_sample(ink[:, None].float().div_(255), _grid(keys, fine, hand), align_corners=False)
    x = _thicken(x, randomness.integers(hand.thickest + 1, keys, randomness.stream("glyphs/weight")), size)
    x = F.avg_pool2d(x, 2)
    share = _column(hand.blur * randomness.uniform(keys, randomness.stream("glyphs/blur")))
    smear = _gaussian(size, 1.5 * size / 28)
    x = torch.lerp(x, smear @ x @ smear.T, share)
    peak = x.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)
    return (x / peak * 255).round_().to(torch.uint8)


def _grid(keys: NDArray[np.uint64], fine: int, hand: Hand) -> Tensor:
    """Where on the canvas each pixel of the results comes from, float32 `[n, fine, fine, 2]` in [-1, 1]."""
    place = (torch.arange(fine) * 2 + 1) / fine - 1
    affine = _affine(keys, hand)[:, :, :, None, None]
    grid = affine[:, :, 0] * place[None, :] + (affine[:, :, 1] * place[:, None] + affine[:, :, 2])
    vectors = randomness.normal(keys[:, None], randomness.stream("glyphs/wobble"), np.arange(2 * 4 * 4)[None])
    coarse = torch.from_numpy(vectors).float().view(-1, 2, 4, 4) * (2 * hand.wobble * CANVAS / BOX)
    cubic = F.interpolate(torch.eye(4)[None, :, :, None], size=(fine, 1), mode="bicubic", align_corners=True)[
        0, :, :, 0
    ]
    return (grid + cubic.T @ coarse @ cubic).permute(0, 2, 3, 1)


def _affine(keys: NDArray[np.uint64], hand: Hand) -> Tensor:
    """What `affine_grid` takes, float32 `[n, 2, 3]`: from a place in the result to a place on the canvas."""

    def draw(name: str) -> NDArray[np.float64]:
        return randomness.normal(keys, randomness.stream(f"glyphs/{name}"))

    def even(name: str, low: float, high: float) -> NDArray[np.float64]:
        return low + (high - low) * randomness.uniform(keys, randomness.stream(f"glyphs/{name}"))

    longer = even("size", hand.smallest, hand.largest)
    stretch = np.exp(0.5 * hand.aspect * draw("aspect"))
    angle, shear = hand.rotation * draw("rotation"), hand.shear * draw("shear")
    # Canvas to result: shear, stretch, rotate, scale; what is asked for is its inverse.
    cos, sin = np.cos(angle), np.sin(angle)
    forward = np.empty((len(keys), 2, 2))
    forward[:, 0, 0] = cos * stretch
    forward[:, 0, 1] = cos * stretch * shear - sin / stretch
    forward[:, 1, 0] = sin * stretch
    forward[:, 1, 1] = sin * stretch * shear + cos / stretch
    forward *= (longer * CANVAS / BOX)[:, None, None]
    inverse = np.linalg.inv(forward)
    shift = np.stack([even("right", -hand.shift, hand.shift), even("down", -hand.shift, hand.shift)], axis=1) * 2
    offset = -(inverse @ shift[:, :, None])
    return torch.from_numpy(np.concatenate([inverse, offset], axis=2)).float()


def _thicken(x: Tensor, radius: NDArray[np.int64], size: int) -> Tensor:
    """Widens strokes by `radius` half pixels of 28 on each side."""
    reach = torch.from_numpy(radius)
    step = max(1, round(size / 28))  # `x` is at twice the size
    for r in range(1, int(reach.max()) + 1):
        rows = (reach >= r).nonzero()[:, 0]
        wider = x[rows]
        for _ in range(step):
            wider = _spread(_spread(wider).mT).mT
        x = x.index_copy(0, rows, wider)
    return x


def _spread(x: Tensor) -> Tensor:
    """The largest of each pixel and its left and right neighbours."""
    wider = x.clone()
    torch.maximum(wider[..., 1:], x[..., :-1], out=wider[..., 1:])
    torch.maximum(wider[..., :-1], x[..., 1:], out=wider[..., :-1])
    return wider


def _gaussian(size: int, sigma: float) -> Tensor:
    """Gaussian blur along one dimension as a matrix `[size, size]`; beyond the edge it is dark."""
    place = torch.arange(size, dtype=torch.float32)
    weight = torch.exp(-0.5 * ((place[:, None] - place[None, :]) / sigma) ** 2)
    return weight / weight[size // 2].sum()


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).float().view(-1, 1, 1, 1)
