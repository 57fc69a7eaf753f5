"""What the folders of a tree say: which files are images, of which class, and of which split."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from kshot.datasets.images import is_image
from kshot.errors import DataError

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Layout:
    """Image files, grouped by class.

    Attributes:
        files: the images, one class after another.
        classes: (split or None, class name, number of files), in the order of `files`.
        ignored: files that are no images, and images outside every class.
    """

    files: list[str]
    classes: list[tuple[str | None, str, int]]
    ignored: list[str]


def class_of(name: str) -> str:
    """The folder that a file lies in."""
    return name.rpartition("/")[0]


def read_layout(names: list[str], where: str | Path) -> Layout:
    """Finds the classes: every folder that holds images is one, called by its path below the root.

    Folders around everything are looked through (a zip of `my_images/cat/1.jpg` has the class `cat`). Where the
    outermost folders are `train` and `test` (and `val`, `valid` or `validation`), they are the splits.

    Args:
        names: the files' paths below the root.
        where: what to call the root in an error.

    Raises:
        DataError: there is no image, or none in a folder.
    """
    images = [name for name in names if is_image(name)]
    if not images:
        kinds = sorted({Path(name).suffix or "none" for name in names})[:5]
        found = f"{len(names)} other files ({', '.join(kinds)})" if names else "nothing"
        raise DataError(
            f"expected images in {where}, in a subfolder per class, got {found}. Put the images of each class into "
            "a folder that is called like the class"
        )
    filed = sorted((name for name in images if "/" in name), key=lambda name: (class_of(name), name))
    if not filed:
        raise DataError(
            f"expected a subfolder per class in {where}, got {len(images)} images side by side, such as {images[0]}. "
            "Put the images of each class into a folder that is called like the class"
        )
    skip = 0
    while all(len(name.split("/")) - skip > 2 for name in filed) and len({n.split("/")[skip] for n in filed}) == 1:
        skip += 1
    outermost = {name.split("/")[skip] for name in filed}
    deep = all(len(name.split("/")) - skip > 2 for name in filed)
    has_splits = deep and outermost <= _SPLITS.keys() and {"train", "test"} <= {_SPLITS[o] for o in outermost}
    classes: list[tuple[str | None, str, int]] = []
    for folder, members in groupby(filed, key=class_of):
        parts = folder.split("/")[skip:]
        split = _SPLITS[parts[0]] if has_splits else None
        classes.append((split, "/".join(parts[1:] if has_splits else parts), len(list(members))))
    chosen = set(filed)
    return Layout(filed, classes, [name for name in names if name not in chosen])


def ordered_images(names: list[str]) -> list[str]:
    """The images that lie in a folder, one folder after another."""
    images = (name for name in names if "/" in name and is_image(name))
    return sorted(images, key=lambda name: (class_of(name), name))
