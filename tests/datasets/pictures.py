"""Small pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

MakeFolder = Callable[..., Path]


def png(seed: int = 0, size: tuple[int, int] = (12, 12), mode: str = "L") -> bytes:
    """The bytes of a noise picture of (width, height) `size`."""
    channels = len(mode)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise[:, :, 0] if channels == 1 else noise).save(out, "PNG")
    return out.getvalue()
