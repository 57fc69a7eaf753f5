"""Other views of an image: shifts, small turns, zeroed pixels and the like, each a function of a key.

What a view changes is drawn from `kshot.randomness` by a key of its own, so it does not depend on the images beside it,
on the order of drawing or on the process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kshot import randomness
from kshot.errors import ConfigError, DataError, suggest

Keys = NDArray[np.uint64]

GRID = 4
"""Displacements of a warp, in either direction."""

FILL = ("zeros", "border", "reflection")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Augmentation:
    """Ranges that the changes of a view are uniform in; by default nothing changes.

    In this order: the geometry (one resampling, bilinear), brightness and contrast, zeroed pixels.

    Attributes:
        shift: how far at most, either way, in each direction; a part of the side, in [0, 1].
        rotation: the largest angle, either way, in degrees.
        scale: (smallest, largest) factor of size, of height and width each on its own.
        shear: the largest slant, either way: columns move by that part of their distance from the centre, in [0, 1].
        warp: how far at most parts of the image move on their own, smoothly, as strokes of another hand do:
            displacements of a 4 x 4 grid, interpolated; a part of the side, in [0, 1].
        flip: the probability that left and right are exchanged.
        brightness: what is added at most, either way; a part of the full range, in [0, 1].
        contrast: (smallest, largest) factor of the distance from the image's mean.
        zeroed: the probability of a pixel to become zero, in all channels.
        fill: what comes in from outside: "zeros", "border" (the nearest pixel) or "reflection".

    Raises:
        ConfigError: a number outside these bounds, or an unknown fill.
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    warp: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    zeroed: float = 0.0
    fill: str = "zeros"

    def __post_init__(self) -> None:
        for name in ("shift", "rotation", "shear", "warp", "flip", "brightness", "zeroed"):
            value, most = getattr(self, name), 180 if name == "rotation" else 1
            if not _is_number(value) or not 0 <= value <= most:
                raise ConfigError(f"expected {name} of an augmentation to be a number in 0..{most}, got {value!r}")
        for name in ("scale", "contrast"):
            value = getattr(self, name)
            pair = tuple(value) if isinstance(value, (tuple, list)) else (value,)
            if len(pair) != 2 or not all(map(_is_number, pair)) or not 0 < pair[0] <= pair[1] < math.inf:
                raise ConfigError(
                    f"expected {name} of an augmentation to be (smallest, largest), both above 0, got {value!r}"
                )
            object.__setattr__(self, name, pair)
        if self.fill not in FILL:
            raise ConfigError(f"unknown fill {self.fill!r} of an augmentation. {suggest(str(self.fill), FILL)}")

    def __call__(self, images: Tensor, key: Keys) -> Tensor:
        """One view of each image.

        Args:
            images: uint8 `[n, C, H, W]`.
            key: uint64 `[n]`: all that a view depends on, besides its image.

        Returns:
            uint8 `[n, C, H, W]`; another tensor, unless nothing is to change.

        Raises:
            DataError: no uint8 images.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataError(
                f"expected uint8 images [n, C, H, W] to augment, got {str(images.dtype).removeprefix('torch.')} "
                f"{list(images.shape)}"
            )
        if not len(images):
            return images
        moves = bool(self.shift or self.rotation or self.shear or self.warp) or self.scale != (1.0, 1.0)
        colours = bool(self.brightness) or self.contrast != (1.0, 1.0)
        x = images
        if self.flip and not moves:  # exact, and without a resampling
            flipped = torch.from_numpy(_uniform(key, "flip") < self.flip)
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)
        if moves or colours:
            x = x.to(torch.float32)
            x = self._moved(x, key) if moves else x
            x = self._coloured(x, key) if colours else x
            x = x.round_().clamp_(0, 255).to(torch.uint8)
        if self.zeroed:
            drawn = _uniform(key[:, None], "zeroed", np.arange(x.shape[-2] * x.shape[-1]))
            kept = torch.from_numpy(drawn >= self.zeroed).view(-1, 1, *x.shape[-2:])
            x = x * kept
        return x

    def _moved(self, x: Tensor, key: Keys) -> Tensor:
        """Resampled where an affine map sends the output's pixels: shift, then turn, slant, size and flip."""
        height, width = x.shape[-2:]
        angle = np.deg2rad(_around(self.rotation, key, "rotation"))
        slant = _around(self.shear, key, "shear")
        tall, wide = (1 / _between(self.scale, key, name) for name in ("tall", "wide"))
        down, across = (_around(2 * self.shift, key, name) for name in ("down", "across"))
        wide = np.where(_uniform(key, "flip") < self.flip, -wide, wide)

        def put(value: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(value.astype(np.float32)).view(-1, 1, 1)

        # Elementwise rather than by affine_grid: a batched product may round by the size of the batch.
        v = torch.linspace(-1 + 1 / height, 1 - 1 / height, height).view(1, -1, 1) - put(down)
        u = torch.linspace(-1 + 1 / width, 1 - 1 / width, width).view(1, 1, -1) - put(across)
        ratio = width / height  # a rotation is one in pixels, which the grid's units are not
        turned_u = put(np.cos(angle)) * u - put(np.sin(angle) / ratio) * v
        turned_v = put(np.sin(angle) * ratio) * u + put(np.cos(angle)) * v
        grid = torch.stack([put(wide) * (turned_u + put(slant) * turned_v), put(tall) * turned_v], dim=-1)
        if self.warp:
            drawn = _uniform(key[:, None], "warp", np.arange(2 * GRID * GRID)).astype(np.float32)
            coarse = torch.from_numpy(2 * self.warp * (2 * drawn - 1)).view(-1, 2, GRID, GRID)
            moved = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
            grid = grid + moved.permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode=self.fill, align_corners=False)

    def _coloured(self, x: Tensor, key: Keys) -> Tensor:
        def put(value: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(value.astype(np.float32)).view(-1, 1, 1, 1)

        mean = x.mean((-3, -2, -1), keepdim=True)
        factor, added = put(_between(self.contrast, key, "contrast")), put(_around(self.brightness, key, "brightness"))
        return mean + factor * (x - mean) + 255 * added

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, what is not the default alone; `as_augmentation` takes it."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


PRESETS: dict[str, Augmentation] = {
    # What another hand does to a drawing; chosen on val tasks. UMTRA's own for Omniglot is shift and zeroed.
    "omniglot": Augmentation(shift=0.15, rotation=20.0, scale=(0.7, 1.3), shear=0.3, warp=0.1),
    "colour": Augmentation(
        shift=0.1, rotation=10.0, scale=(1.0, 1.5), flip=0.5, brightness=0.2, contrast=(0.6, 1.4), fill="reflection"
    ),
}
"""Named augmentations: "omniglot" for ink drawings (bright on a background of zeros), "colour" for photographs."""


def as_augmentation(value: str | Mapping[str, Any] | Augmentation) -> Augmentation:
    """An augmentation by its name, by its ranges, or as it is. `{"preset": "omniglot", ...}` begins from a preset.

    Raises:
        ConfigError: an unknown name or range.

    >>> as_augmentation({"preset": "omniglot", "zeroed": 0.3}).zeroed
    0.3
    """
    if isinstance(value, Augmentation):
        return value
    if isinstance(value, str):
        if value not in PRESETS:
            raise ConfigError(f"unknown augmentation {value!r}. {suggest(value, PRESETS)} Or give its ranges")
        return PRESETS[value]
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"expected augment to be one of {', '.join(PRESETS)}, or ranges such as {{shift: 0.1, zeroed: 0.2}}; "
            f"got {value!r}"
        )
    own = dict(value)
    begin = asdict(as_augmentation(own.pop("preset"))) if "preset" in own else {}
    known = [field.name for field in fields(Augmentation)]
    for name in own:
        if name not in known:
            raise ConfigError(f"unknown range {name!r} of an augmentation. {suggest(str(name), [*known, 'preset'])}")
    return Augmentation(**{**begin, **own})


def _uniform(key: Keys, name: str, *counters: randomness.Counter) -> NDArray[np.float64]:
    return randomness.uniform(key, randomness.stream(f"augment/{name}"), *counters)


def _around(most: float, key: Keys, name: str) -> NDArray[np.float64]:
    return most * (2 * _uniform(key, name) - 1)


def _between(limits: tuple[float, float], key: Keys, name: str) -> NDArray[np.float64]:
    return limits[0] + (limits[1] - limits[0]) * _uniform(key, name)
