"""Tensors as bytes, to be sealed: a line of JSON that says what they are, and their numbers, little-endian, one after
another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from kshot.errors import ArtifactError

_HALF = "bfloat16"


def pack(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of some tensors, and of what is said of them.

    Args:
        head: JSON-able.
        tensors: by name.
    """
    halves = {name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16}  # which NumPy has not
    arrays = {
        name: (tensor.view(torch.int16) if name in halves else tensor).detach().cpu().numpy()
        for name, tensor in tensors.items()
    }
    forms = [
        [name, _HALF if name in halves else array.dtype.newbyteorder("<").str, array.shape]
        for name, array in arrays.items()
    ]
    line = orjson.dumps({"head": head, "tensors": forms}, option=orjson.OPT_NON_STR_KEYS)
    return b"".join(
        [line, b"\n", *(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays.values())]
    )


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` was given.

    Raises:
        ArtifactError: these are not its bytes.
    """
    line, _, numbers = content.partition(b"\n")
    tensors, start = {}, 0
    try:
        document = orjson.loads(line)
        for name, form, shape in document["tensors"]:
            dtype = np.dtype("<i2" if form == _HALF else form)
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            # A copy: writable, aligned, and in this machine's byte order.
            array = np.frombuffer(numbers[start : start + size], dtype).reshape(shape).astype(dtype.newbyteorder("="))
            tensors[name] = torch.from_numpy(array).view(torch.bfloat16) if form == _HALF else torch.from_numpy(array)
            start += size
        if start != len(numbers):
            raise ValueError(f"expected {start} bytes of numbers, got {len(numbers)}")
        return document["head"], tensors
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"what is stored is damaged ({type(error).__name__}: {error})") from error


def pack_example(x: Tensor, label: str | None) -> bytes:
    """The bytes of an example."""
    return pack({"label": label}, {"x": x})


def unpack_example(content: bytes) -> tuple[Tensor, str | None]:
    """What `pack_example` was given.

    Raises:
        ArtifactError: these are not its bytes.
    """
    head, tensors = unpack(content)
    return tensors["x"], head["label"]
