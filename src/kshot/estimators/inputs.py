"""What a user calls examples, as the tensor that a learner takes: by the learner's own transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kshot.datasets.transform import ImageTransform, TableTransform
from kshot.episodes import Input
from kshot.errors import SupportError
from kshot.learners.base import Learner
from kshot.learners.support import prepare_input

_CHANNELS = (1, 3, 4)


def learner_input(learner: Learner, examples: Any, what: str = "support") -> Input:
    """Examples as normalised tensors `[n, *shape]` on the learner's device.

    Args:
        learner: whose transform and shape count.
        examples: one of

            - images as they are found: a list of paths, bytes, Pillow images or uint8 arrays of any sizes, or one uint8
              array `[n, H, W]`, `[n, H, W, C]` or `[n, C, H, W]`: resized and so on by the learner's transform;
            - a uint8 tensor `[n, C, H, W]`: images that the transform has read (by `kshot.datasets.read_images`, say);
            - floats `[n, *shape]` (or flat `[n, d]`): normalised, as a task source yields them;
            - a data frame, for a learner of tables: its columns are taken by name, and standardised;
            - a dict of tensors, for a learner that takes one.
        what: "support", "query" or "unlabeled", for error messages.

    Raises:
        SupportError: something else, another shape, NaNs, or images for a learner without an image transform.
        ImageError: a file that is no image.
        DataError: a data frame that lacks a column, or has a wrong cell.
    """
    transform = learner.transform
    if isinstance(transform, TableTransform) and hasattr(examples, "columns"):
        return prepare_input(learner, transform.normalise(_encode(examples, transform)), what)
    if isinstance(examples, (list, tuple)) and examples and isinstance(examples[0], Tensor):
        examples = torch.stack(list(examples))
    if isinstance(examples, (dict, Tensor)):
        return prepare_input(learner, _shaped(learner, examples), what)
    images = _images(examples, transform)
    if images is not None:
        if not images:
            raise SupportError(f"the {what} set is empty: give at least one example")
        if not isinstance(transform, ImageTransform):
            raise SupportError(
                f"got images as {what} examples, but this {type(learner).__name__} was saved without an image "
                "transform, so nothing says how it reads them. Give it floats as it was trained on"
            )
        return prepare_input(learner, torch.stack([transform.read(i, name) for name, i in images]), what)
    array = _array(examples, what)
    if isinstance(transform, ImageTransform) and array.dtype.kind != "f":
        raise SupportError(
            f"expected images as uint8 arrays of 3 or 4 dimensions, or normalised as floats, got {what} examples of "
            f"dtype {array.dtype} and shape {list(array.shape)}. Convert them: .astype('uint8') if they are in 0..255"
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float32)
    return prepare_input(learner, _shaped(learner, torch.from_numpy(array)), what)


def _images(examples: Any, transform: Any) -> list[tuple[str | None, Any]] | None:
    """The examples one by one with their names, where they are images to read; None where they are numbers."""
    if getattr(examples, "ndim", 0) == 1 and hasattr(examples, "to_numpy"):  # a pandas column of paths
        examples = examples.to_numpy()
    if isinstance(examples, np.ndarray) and examples.dtype == np.uint8:
        shape = transform.shape if isinstance(transform, ImageTransform) else (0,)
        if examples.ndim == 2 and examples.shape[1] == np.prod(shape):
            examples = examples.reshape(-1, *shape)
        if examples.ndim not in (3, 4):
            return None
        last = _channels_last(examples, transform)
        return [(f"image {i}", image) for i, image in enumerate(last)]
    if isinstance(examples, np.ndarray) and examples.dtype.kind in "USO" and examples.ndim == 1:
        examples = examples.tolist()
    if isinstance(examples, (str, bytes, Path)):
        raise SupportError(f"expected a list of images, got one {type(examples).__name__}: put it into a list")
    if not isinstance(examples, (list, tuple)):
        return None
    if not examples:
        return []
    first = examples[0]
    if isinstance(first, (str, Path)):
        return [(None, image) for image in examples]
    if isinstance(first, np.ndarray) and first.dtype == np.uint8 and first.ndim in (2, 3):
        return [(f"image {i}", _channels_last(np.asarray(a)[None], transform)[0]) for i, a in enumerate(examples)]
    if isinstance(first, bytes) or hasattr(first, "getexif"):  # a Pillow image, without importing Pillow to ask
        return [(getattr(image, "filename", None) or f"image {i}", image) for i, image in enumerate(examples)]
    return None


def _channels_last(images: Any, transform: Any) -> Any:
    """uint8 `[n, H, W]`, `[n, H, W, C]` or `[n, C, H, W]` with the channels last, where there are any."""
    if images.ndim != 4:
        return images
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if first and last and isinstance(transform, ImageTransform):  # three pixels wide or high
        last = images.shape[1:] != transform.shape
    return images if last or not first else images.transpose(0, 2, 3, 1)


def _array(examples: Any, what: str) -> Any:
    try:
        array = np.asarray(examples)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"its dtype is {array.dtype}")
    except (TypeError, ValueError) as error:
        raise SupportError(
            f"expected the {what} examples as images (paths, Pillow images, uint8 arrays) or as a numeric array, got "
            f"{type(examples).__name__} ({error})"
        ) from error
    return np.array(array, dtype=array.dtype.newbyteorder("="))  # a copy: torch takes no read-only memory


def _shaped(learner: Learner, x: Any) -> Any:
    """`[n, d]` or `[n, H, W]` in the learner's own shape, where the numbers are as many."""
    shape = learner.input_shape
    if isinstance(x, dict) or shape is None or x.ndim == 0 or x.numel() == 0 or tuple(x.shape[1:]) == shape:
        return x
    flat = x.ndim == 2 and len(shape) > 1
    without_channel = shape[0] == 1 and tuple(x.shape[1:]) == shape[1:]
    scalars = x.ndim == 1 and shape == (1,)
    if (flat or without_channel or scalars) and x[0].numel() == int(np.prod(shape)):
        return x.reshape(len(x), *shape)
    return x


def _encode(frame: Any, transform: TableTransform) -> Tensor:
    from kshot.datasets.csv import Table

    names = [str(name) for name in frame.columns]
    rows = [[str(cell).strip() for cell in row] for row in frame.itertuples(index=False, name=None)]
    return Table(Path("the data frame"), names, rows, [], list(range(len(rows)))).encode(transform)
