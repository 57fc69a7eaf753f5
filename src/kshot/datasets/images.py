"""Many image files to one uint8 tensor: in threads, cached, with unreadable files named or left out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot.datasets import cache
from kshot.datasets.archive import Tree
from kshot.datasets.gathered import is_gathered
from kshot.datasets.transform import ImageTransform
from kshot.errors import DataError, ImageError

_log = logging.getLogger(__name__)
_CHUNK = 256


@dataclass(frozen=True)
class Decoded:
    """Images of a tree.

    Attributes:
        x: uint8 `[n, C, H, W]`.
        names: the n files, as the tree calls them.
        bad: the files that were left out.
    """

    x: Tensor
    names: list[str]
    bad: list[str]


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """The suffixes of all formats that Pillow reads, lower case with their dot."""
    from PIL import Image

    Image.init()
    return frozenset(suffix for suffix, format in Image.registered_extensions().items() if format in Image.OPEN)


def is_image(name: str) -> bool:
    """Whether a file's suffix is that of an image."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


def decode(files: Iterable[tuple[str, Callable[[], bytes]]], transform: ImageTransform) -> tuple[Decoded, list[str]]:
    """Decodes files in threads (Pillow lets go of the interpreter while it works).

    Args:
        files: names for errors, and what reads their bytes.
        transform: what makes an image of them.

    Returns:
        The images that could be read, and a message for each that couldn't.
    """
    pending = list(files)
    x = np.empty((len(pending), *transform.shape), dtype=np.uint8)
    errors: dict[int, str] = {}

    def work(first: int) -> None:
        for i in range(first, min(first + _CHUNK, len(pending))):
            name, read = pending[i]
            try:
                x[i] = transform.read_array(read(), name)
            except DataError as error:
                errors[i] = str(error)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, range(0, len(pending), _CHUNK)):
            pass
    bad = sorted(errors)
    keep: NDArray[np.bool_] = np.ones(len(pending), dtype=bool)
    keep[bad] = False
    names = [name for (name, _), good in zip(pending, keep, strict=True) if good]
    kept = x[keep] if bad else x
    return Decoded(torch.from_numpy(kept), names, [pending[i][0] for i in bad]), [errors[i] for i in bad]


def decode_tree(
    tree: Tree,
    transform: ImageTransform,
    *,
    select: Callable[[list[str]], list[str]],
    label: str,
    skip_bad: bool = False,
) -> Decoded:
    """Decodes files of a tree, or takes them from the cache, which those that were gathered from a server never enter.

    Args:
        tree: a folder or a zip.
        transform: what makes an image of a file.
        select: chooses files, and their order, from all names; a pure function of them.
        label: names the cache, and tells apart two ways to select from one tree.
        skip_bad: leave out what cannot be decoded.

    Raises:
        ImageError: a file cannot be decoded, and `skip_bad` is false.
    """
    read_by = {k: v for k, v in transform.to_dict().items() if k not in ("mean", "std")}
    key = cache.cache_key(label, label, str(tree.path.absolute()), tree.fingerprint(), read_by)
    private = is_gathered(tree.path)
    cached = None if private else cache.load(key)
    if cached is not None and cached[0].keys() == {"x"} and cached[0]["x"].shape[1:] == transform.shape:
        x, description = cached[0]["x"], cached[1]
        result, errors = Decoded(x, description["names"], description["bad"]), description["errors"]
    else:
        chosen = select(tree.names())
        result, errors = decode(
            ((name, lambda name=name: tree.read(name)) for name in chosen),  # type: ignore[misc]
            transform,
        )
        if chosen and not private:
            cache.save(key, {"x": result.x}, {"names": result.names, "bad": result.bad, "errors": errors})
    refuse_bad(result.bad, errors, skip_bad, where=str(tree.path))
    return result


def refuse_bad(bad: list[str], errors: list[str], skip_bad: bool, where: str) -> None:
    """Raises for the first bad file, or counts them where they are to be left out."""
    if not bad:
        return
    if not skip_bad:
        more = f" ({len(bad) - 1} more like it in {where})" if len(bad) > 1 else f" (in {where})"
        raise ImageError(errors[0] + more)
    _log.warning("left out %d unreadable file%s of %s: %s", len(bad), "s" * (len(bad) > 1), where, ", ".join(bad[:5]))
