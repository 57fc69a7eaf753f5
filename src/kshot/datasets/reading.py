"""A new task from files: a support set with a folder per class, and the files to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kshot.datasets.archive import open_tree
from kshot.datasets.images import decode, is_image, refuse_bad
from kshot.datasets.layout import ordered_images, read_layout
from kshot.datasets.registry import TABLE_SUFFIXES
from kshot.datasets.transform import ImageTransform, Transform
from kshot.errors import DataError, UnsupportedError


def read_support(path: str | Path, transform: Transform, skip_bad: bool = False) -> tuple[Tensor, list[str], list[str]]:
    """A support set from a folder or a zip with a subfolder per class; for a learner of tables, from a CSV.

    Args:
        path: the folder, the zip, or the CSV (its label column as for `datasets.load`).
        transform: the learner's own.
        skip_bad: leave out files that cannot be decoded.

    Returns:
        uint8 images `[n, C, H, W]` (or features `[n, d]`); the label of each, the name of its folder; its file.

    Raises:
        ImageError: a file cannot be decoded, and `skip_bad` is false; or none can.
        DataError: no images, or no subfolders.
    """
    if not isinstance(transform, ImageTransform):
        return _read_table(path, transform)
    if is_table(path):
        raise DataError(
            f"{path} is a table, but this learner was trained on images: expected a folder, or a zip, with a subfolder "
            "per class"
        )
    with open_tree(path) as tree:
        names = tree.names()
        read_layout(names, path)  # raises where there are no classes
        files = ordered_images(names)
        decoded, errors = decode(
            [(name, lambda name=name: tree.read(name)) for name in files],  # type: ignore[misc]
            transform,
        )
    refuse_bad(decoded.bad, errors, skip_bad and bool(decoded.names), where=str(path))
    labels = [name for _, name, count in read_layout(decoded.names, path).classes for _ in range(count)]
    return decoded.x, labels, decoded.names


def labelled_images(path: str | Path) -> tuple[list[bytes], list[str], list[str]]:
    """The image files of a folder or a zip with a subfolder per class as they are: their bytes, labels and names.

    Raises:
        DataError: no images, or no subfolders.
    """
    if is_table(path):
        raise DataError(f"{path} is a table: expected a folder, or a zip, of images with a subfolder per class")
    with open_tree(path) as tree:
        names = tree.names()
        read_layout(names, path)  # raises where there are no classes
        files = ordered_images(names)
        layout = read_layout(files, path)
        contents = [tree.read(name) for name in files]
    return contents, [name for _, name, count in layout.classes for _ in range(count)], files


def read_images(paths: Sequence[str | Path], transform: Transform) -> Tensor:
    """The files to predict, uint8 `[n, C, H, W]`.

    Raises:
        ImageError: a file is not there or cannot be decoded.
        UnsupportedError: the learner that `transform` belongs to does not take images.
    """
    if not isinstance(transform, ImageTransform):
        raise UnsupportedError(
            f"expected a learner of images, got one whose inputs come from a {type(transform).__name__}: give it its "
            "features instead of files"
        )
    if not paths:
        return torch.empty((0, *transform.shape), dtype=torch.uint8)
    return torch.stack([transform.read(path) for path in paths])


def read_examples(
    paths: Sequence[str | Path], transform: Transform, skip_bad: bool = False
) -> tuple[Tensor, list[str]]:
    """What is to be predicted: an example an image, or an example a row of a table.

    Args:
        paths: image files; for a learner of tables, CSVs with the columns that it was trained with (a label column and
            others besides are passed over).
        transform: the learner's own.
        skip_bad: leave out files that cannot be decoded, unless that is all of them.

    Returns:
        uint8 images `[n, C, H, W]` or features float32 `[n, d]`, not yet normalised; the name of each, its file or
        `file:line`.

    Raises:
        ImageError, DataError: a file is not there or cannot be read; a column is missing.
    """
    from kshot.datasets.csv import read_rows
    from kshot.datasets.transform import TableTransform

    if isinstance(transform, ImageTransform) and skip_bad:
        decoded, errors = decode([(str(path), Path(path).read_bytes) for path in paths], transform)
        refuse_bad(decoded.bad, errors, bool(decoded.names), where="those given")
        return decoded.x, decoded.names
    if not isinstance(transform, TableTransform):
        return read_images(paths, transform), [str(path) for path in paths]
    for path in paths:
        _expect_table(path, transform)
    tables = [read_rows(Path(path)) for path in paths]
    names = [f"{table.path}:{line}" for table in tables for line in table.lines]
    return torch.cat([table.encode(transform) for table in tables]), names


def _read_table(path: str | Path, transform: Transform) -> tuple[Tensor, list[str], list[str]]:
    from kshot.datasets.csv import read_table
    from kshot.datasets.transform import TableTransform

    if not isinstance(transform, TableTransform):
        raise DataError(f"expected a transform that reads files, got {type(transform).__name__}: give arrays instead")
    _expect_table(path, transform)
    table = read_table(Path(path))
    return table.encode(transform), table.labels, [f"{path}:{line}" for line in table.lines]


def is_table(path: str | Path) -> bool:
    """Whether a file is called like a table."""
    return str(path).lower().endswith(TABLE_SUFFIXES)


def _expect_table(path: str | Path, transform: Transform) -> None:
    if Path(path).is_dir() or is_image(str(path)) or str(path).lower().endswith(".zip"):
        what = "a folder" if Path(path).is_dir() else "no table"
        raise DataError(
            f"{path} is {what}, but this learner was trained on {transform.reads}: expected a CSV with them"
        )
