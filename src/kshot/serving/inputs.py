"""From what a request holds to the examples that a model takes, through the model's own transform.

An example comes as an array (`x`), as an image file in base64 (`image`), or as raw bytes of an array (`bytes` with
`shape` and `dtype`); in a multipart body as an image file.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot.datasets.transform import ImageTransform
from kshot.errors import DataError
from kshot.learners.base import Learner
from kshot.serving.problems import InputError
from kshot.serving.settings import Limits

DTYPES = ("uint8", "float32")

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Of images: what cameras and browsers make. Of the parsers that there are no others meet a stranger's bytes."""


_ADVICE = re.compile(r"\.? (Remove it|Replace it|Shrink it), or leave .*")
"""What an error about a file says to who has it."""


class Reader:
    """Reads the examples of requests for one model.

    Args:
        learner: of the model.
        limits: on pixels.
    """

    def __init__(self, learner: Learner, limits: Limits) -> None:
        self.learner, self.limits = learner, limits
        self.transform = learner.transform
        self.shape = learner.input_shape

    @property
    def images(self) -> bool:
        """Whether the model takes images."""
        return isinstance(self.transform, ImageTransform)

    def read(self, items: Sequence[Any], what: str) -> Tensor:
        """Examples as they are stored: uint8 `[n, C, H, W]` of images, float32 `[n, ...]` of anything else.

        Args:
            items: JSON objects with `x`, `image` or `bytes`; or the bytes of image files.
            what: to call them in an error: `examples`, say.

        Raises:
            InputError: one is not of these forms, or not what the model takes.
        """
        stack = self._stack(items)
        if stack is not None:
            return torch.from_numpy(stack)
        room = _Room(self.limits)
        rows = [self._one(item, f"{what}[{i}]", room) for i, item in enumerate(items)]
        for i, row in enumerate(rows):
            if self.shape is not None and row.shape != self.shape:
                raise InputError(
                    f"{what}[{i}]: expected an example of shape {list(self.shape)}, as the model was trained on, got "
                    f"{list(row.shape)}"
                )
            if row.shape != rows[0].shape or row.dtype != rows[0].dtype:
                raise InputError(
                    f"{what}[{i}]: expected an example of shape {list(rows[0].shape)} and dtype {rows[0].dtype}, as "
                    f"{what}[0] is, got {list(row.shape)} and {row.dtype}"
                )
        return torch.from_numpy(np.stack(rows))

    def _stack(self, items: Sequence[Any]) -> NDArray[np.uint8] | None:
        """Images that are arrays of the model's size already, all at once: the way of most requests. None where one is
        anything else, and has to be looked at by itself."""
        if not isinstance(self.transform, ImageTransform) or self.transform.channels != 1:
            return None
        if not all(isinstance(item, dict) and "x" in item and item.get("dtype") in (None, "uint8") for item in items):
            return None
        try:
            # `bytes` takes whole numbers from 0 to 255, and nothing else.
            pixels = bytearray().join(_pixels(item["x"], *self.transform.size) for item in items)
        except (TypeError, ValueError):
            return None
        return self.transform.read_stack(np.frombuffer(pixels, np.uint8).reshape(len(items), *self.transform.shape))

    def _one(self, item: Any, where: str, room: _Room) -> NDArray[Any]:
        if isinstance(item, bytes):
            return self._image(item, where, room)
        if not isinstance(item, Mapping):
            raise InputError(f"{where}: expected an object with x, image or bytes, got {_short(item)}")
        if "x" in item:
            return self._array(item["x"], item.get("dtype"), where)
        if "image" in item:
            return self._image(_decode(item["image"], f"{where}.image"), where, room)
        if "bytes" in item:
            return self._bytes(item, where)
        raise InputError(f"{where}: expected one of x, image and bytes, got {', '.join(map(str, item)) or 'nothing'}")

    def _array(self, value: Any, dtype: Any, where: str) -> NDArray[Any]:
        kind = dtype or ("uint8" if self.images else "float32")
        if kind not in DTYPES:
            raise InputError(f"{where}.dtype: expected {' or '.join(DTYPES)}, got {_short(kind)}")
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.empty(0, object)
        if array.dtype.kind not in "iuf":
            raise InputError(f"{where}.x: expected an array of numbers, every row as long as the others")
        return self._checked(array, kind, where)

    def _checked(self, array: NDArray[Any], kind: str, where: str) -> NDArray[Any]:
        if kind == "float32":
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise InputError(f"{where}: expected finite numbers that float32 holds, got NaN or infinity")
            return array
        if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
            raise InputError(
                f"{where}: expected whole numbers from 0 to 255, a pixel each, got others: say dtype float32 for "
                "values as the network sees them"
            )
        if array.size and (array.min() < 0 or array.max() > 255):
            raise InputError(f"{where}: expected pixels from 0 to 255, got {array.min()} to {array.max()}")
        array = array.astype(np.uint8)
        if not isinstance(self.transform, ImageTransform):
            return array
        if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3, 4):
            array = array.transpose(1, 2, 0)
        if array.ndim not in (2, 3) or array.size > self.limits.pixels * 4 or not array.size:
            raise InputError(
                f"{where}: expected an image [height, width] or [height, width, channels], got {list(array.shape)}"
            )
        try:
            return self.transform.read_array(array, where)
        except DataError as error:
            raise InputError(str(error)) from None

    def _image(self, content: bytes, where: str, room: _Room) -> NDArray[Any]:
        if not isinstance(self.transform, ImageTransform):
            raise InputError(f"{where}: this model takes no images but examples of {list(self.shape or ())}: send x")
        from kshot.datasets.pixels import open_image

        try:
            image = open_image(content, where, FORMATS)
            room.take(image.width, image.height, where)  # by its header, before anything is decoded
            return self.transform.read_array(image, where)
        except DataError as error:
            raise InputError(f"{_ADVICE.sub('', str(error))}: send one of {', '.join(FORMATS)}") from None
        except MemoryError:
            raise InputError(f"{where}: the image is too large to be decoded") from None

    def _bytes(self, item: Mapping[str, Any], where: str) -> NDArray[Any]:
        shape, kind = item.get("shape"), item.get("dtype") or ("uint8" if self.images else "float32")
        if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
            raise InputError(f"{where}.shape: expected the lengths of the array's dimensions, got {_short(shape)}")
        if kind not in DTYPES:
            raise InputError(f"{where}.dtype: expected {' or '.join(DTYPES)}, got {_short(kind)}")
        content = _decode(item["bytes"], f"{where}.bytes")
        expected = int(np.prod(shape, dtype=object)) * np.dtype(kind).itemsize
        if len(content) != expected:
            raise InputError(f"{where}.bytes: expected {expected:,} bytes of {kind} for {shape}, got {len(content):,}")
        return self._checked(np.frombuffer(content, np.dtype(kind).newbyteorder("<")).reshape(shape), kind, where)


class _Room:
    """The pixels that the images of one request may still have."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.left = limits, limits.total_pixels

    def take(self, width: int, height: int, where: str) -> None:
        """Raises InputError for an image that is too large, or one too many."""
        if width * height > self.limits.pixels:
            raise InputError(
                f"{where}: expected an image of at most {self.limits.pixels:,} pixels, got {width} x {height}: shrink "
                "it first"
            )
        self.left -= width * height
        if self.left < 0:
            raise InputError(
                f"{where}: expected images of at most {self.limits.total_pixels:,} pixels together, got more: shrink "
                "them first, or send some of them in a second request"
            )


def _decode(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise InputError(f"{where}: expected base64, got {_short(text)}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: expected base64, got something else ({error})") from None


def _pixels(rows: Any, height: int, width: int) -> bytes:
    """The numbers of a list of rows.

    Raises:
        TypeError, ValueError: something else, or of another size.
    """
    if type(rows) is not list or len(rows) != height or type(rows[0]) is not list or len(rows[0]) != width:
        raise ValueError
    if type(rows[0][0]) is not int:
        raise TypeError
    pixels = bytes(chain.from_iterable(rows))
    if any(len(row) != width for row in rows):
        raise ValueError
    return pixels


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
