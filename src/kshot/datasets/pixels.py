"""One Pillow image to plain pixels: opened with its size checked, upright, flat, of the wanted shape."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kshot.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

PIXEL_LIMIT = 89_478_485
"""The most pixels that an image may decode to (Pillow's own warning level: a quarter of a GiB in RGB)."""


def open_image(image: Any, name: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    """A Pillow image whose header was read and whose size is sane; nothing is decoded yet.

    Args:
        image: a file's bytes, an array, or a Pillow image.
        name: what to call it in an error.
        formats: of files, by Pillow's names; all that it reads by default.

    Raises:
        ImageError: no image, damaged, empty, or of too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    too_large = f"{name} has too many pixels: expected at most {PIXEL_LIMIT:,}"
    if isinstance(image, bytes):
        if not image:
            raise ImageError(f"{name} is empty: expected an image, got a file of 0 bytes")
        try:
            image = Image.open(io.BytesIO(image), formats=formats)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(
                f"{too_large}, got more ({error}). Shrink it, or leave it out with skip_bad=True (--skip-bad)"
            ) from error
        except UnidentifiedImageError as error:
            raise ImageError(
                f"{name} is not an image in any format that Pillow reads. Remove it, or leave unreadable files out "
                "with skip_bad=True (--skip-bad)"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # a parser fed with half a header raises whatever it stumbles over
            raise ImageError(
                f"{name} is damaged: expected a whole image, but its header cannot be read ({error}). Replace it, or "
                "leave unreadable files out with skip_bad=True (--skip-bad)"
            ) from error
    elif not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype.kind == "f":
            if not bool(np.isfinite(array).all()) or array.min(initial=0) < 0 or array.max(initial=0) > 1:
                raise ImageError(f"{name}: expected floats in [0, 1], or uint8; got values outside")
            array = (array * 255 + 0.5).astype(np.uint8)
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise ImageError(
                f"{name}: expected an array [H, W] or [H, W, 1 | 3 | 4] of uint8 or of floats in [0, 1], "
                f"got {array.dtype} {list(array.shape)}"
            )
        image = Image.fromarray(array)
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        raise ImageError(
            f"{too_large}, got {width:,} x {height:,}. Shrink it, or leave it out with skip_bad=True (--skip-bad)"
        )
    if width * height == 0:
        raise ImageError(f"{name} has no pixels: its size is {width} x {height}")
    return image  # type: ignore[no-any-return]


def upright(image: Image.Image) -> Image.Image:
    """Turned as the camera was held."""
    from PIL import Image

    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block; the picture is none the worse for it
        return image
    flip = Image.Transpose
    methods = {
        2: flip.FLIP_LEFT_RIGHT,
        3: flip.ROTATE_180,
        4: flip.FLIP_TOP_BOTTOM,
        5: flip.TRANSPOSE,
        6: flip.ROTATE_270,
        7: flip.TRANSVERSE,
        8: flip.ROTATE_90,
    }
    return image.transpose(methods[orientation]) if orientation in methods else image


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """To 8-bit grey or RGB: deeper greys scaled (Pillow would clip them), transparency laid over white."""
    from PIL import Image

    if image.mode == mode:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode.startswith("I") and values.max() > 255 else 255.0
        if image.mode == "F" and values.max() <= 1.0:
            top = 1.0
        image = Image.fromarray((np.clip(values / top, 0, 1) * 255 + 0.5).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def crop(image: Image.Image, aspect: float) -> Image.Image:
    """The largest central part whose width is `aspect` times its height."""
    width = min(image.width, max(1, round(image.height * aspect)))
    height = min(image.height, max(1, round(image.width / aspect)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def pad(image: Image.Image, aspect: float) -> Image.Image:
    """The whole image in the middle of a canvas of its border's median colour."""
    from PIL import Image

    array = np.asarray(image)
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    colour = np.median(border, axis=0)
    fill: Any = int(colour) if image.mode == "L" else tuple(int(c) for c in colour)
    width = max(image.width, round(image.height * aspect))
    height = max(image.height, round(image.width / aspect))
    canvas = Image.new(image.mode, (width, height), fill)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def border_mean(array: NDArray[np.uint8]) -> float:
    """The mean brightness of the outermost pixels of `[C, H, W]`."""
    edges = (array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1])
    return float(np.concatenate([edge.reshape(-1) for edge in edges]).mean())
