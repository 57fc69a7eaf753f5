"""`folder`: a user's own images, in one folder or zip with a subfolder per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kshot.datasets.archive import open_tree
from kshot.datasets.dataset import Dataset
from kshot.datasets.images import decode_tree
from kshot.datasets.layout import Layout, ordered_images, read_layout
from kshot.datasets.pool import Pool
from kshot.datasets.registry import register
from kshot.datasets.splits import SPLITS, shuffled, split_classes
from kshot.datasets.transform import ImageTransform, Transform, as_transform
from kshot.errors import ConfigError, OverlappingSplitsError


@register(
    "folder",
    description="your own images: a folder or a zip, with a subfolder per class; any format that Pillow reads",
    licence="yours",
    source="path=",
)
def load(
    *,
    path: Path,
    split: str = "auto",
    at_least: int | Mapping[str, int] = 2,
    size: int | Sequence[int] = 32,
    channels: int = 3,
    polarity: str = "as_is",
    fit: str = "stretch",
    transform: Transform | Mapping[str, Any] | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Dataset:
    """Reads a folder or a zip; decoded once, then taken from the cache.

    Args:
        path: the folder or the zip.
        split: "auto": `train`, `val` and `test` folders are the splits where they are the outermost (without `val`, a
            fifth of the training classes is held out for it), otherwise classes are dealt out by `seed`, 60/20/20;
            "all": every class goes to `test`, to evaluate a learner that was trained on other data.
        at_least: the fewest classes that each split must hold, where they are dealt out (their tasks' way):
            one number, or one by the name of each.
        size, channels, polarity, fit: see `ImageTransform`; pixels are standardised by the training classes.
        transform: in place of these four: how a learner that exists already reads images.
        seed: another seed, other splits.
        skip_bad: leave out files that cannot be decoded.

    Raises:
        TooFewClassesError: too few classes for three disjoint splits.
        OverlappingSplitsError: the `train`, `val` and `test` folders share classes.
        ImageError: a file cannot be decoded, and `skip_bad` is false.
        DataError: no images, or no subfolders.
    """
    _check_split(split)
    given = image_transform(transform, str(path))
    height, width = (size, size) if isinstance(size, int) else size
    reading = given or ImageTransform((height, width), channels, polarity=polarity, fit=fit)
    with open_tree(path) as tree:
        decoded = decode_tree(tree, reading, select=ordered_images, label="folder", skip_bad=skip_bad)
        # Of the names that were decoded rather than of those in the tree: the cache needs no second listing.
        layout = read_layout(decoded.names or tree.names(), path)
    counts = [count for _, _, count in layout.classes]
    names = [name for _, name, _ in layout.classes]
    pool = Pool.from_sorted(decoded.x, counts, names)
    chosen = _choose(layout, split, at_least=at_least, seed=seed, path=path)
    pools = {name: pool.select(chosen[name]) for name in SPLITS}
    final = given or standardised(reading, pools["train"] if len(pools["train"]) else pool)
    info = {"bad_files": decoded.bad, "source": str(path)}
    return Dataset(path.stem, pools["train"], pools["val"], pools["test"], final, info)


def image_transform(transform: Transform | Mapping[str, Any] | None, name: str) -> ImageTransform | None:
    """The transform that a loader of images was given, if it is one for images.

    Raises:
        ConfigError: it is for something else.
    """
    given = as_transform(transform)
    if given is not None and not isinstance(given, ImageTransform):
        raise ConfigError(
            f"{name} holds images, but the learner was trained on {given.reads}: give it data of that kind, or use a "
            "learner of images"
        )
    return given


def standardised(transform: ImageTransform, pool: Pool, most: int = 5000) -> ImageTransform:
    """The transform with the mean and standard deviation of each channel over (evenly chosen) images of a pool."""
    rows = torch.cat([pool.rows(c) for c in range(len(pool))])
    rows = rows[:: max(1, len(rows) // most)]
    total, n = torch.zeros(transform.channels, dtype=torch.float64), 0
    squares = torch.zeros_like(total)
    for part in rows.split(256):
        x = pool.x[part].to(torch.float64) / 255
        total += x.sum((0, 2, 3))
        squares += x.square().sum((0, 2, 3))
        n += x.shape[0] * x.shape[2] * x.shape[3]
    mean = total / n
    std = (squares / n - mean.square()).clamp_min(0).sqrt()
    # Six digits: the same whatever order the sums ran in; a channel that never varies is left as it is.
    means = tuple(round(float(m), 6) for m in mean)
    stds = tuple(round(float(s), 6) if s > 1e-4 else 1.0 for s in std)
    size, channels = transform.size, transform.channels
    return ImageTransform(size, channels, transform.resample, transform.polarity, means, stds, transform.fit)


def _check_split(split: str) -> None:
    if split not in ("auto", "all"):
        raise ConfigError(f"expected split to be 'auto' or 'all', got {split!r}")


def _choose(
    layout: Layout, split: str, *, at_least: int | Mapping[str, int], seed: int, path: Path
) -> dict[str, list[int]]:
    """The indices of the classes of each split."""
    everything = list(range(len(layout.classes)))
    splits = [s for s, _, _ in layout.classes]
    names = [name for _, name, _ in layout.classes]
    if split == "all":
        if len(set(names)) < len(names):
            raise OverlappingSplitsError(
                f"the train, val and test folders of {path} share classes, so split='all' would count each twice: give "
                "the path of one of them"
            )
        return {"train": [], "val": [], "test": everything}
    if splits[0] is None:
        hint = (
            "Or use the learner that ships with kshot, which needs no training: "
            f"kshot adapt characters --support {path} --out task.safetensors"
        )
        return split_classes(names, seed=seed, at_least=at_least, what=str(path), hint=hint)
    chosen = {name: [c for c in everything if splits[c] == name] for name in SPLITS}
    if not chosen["val"]:
        train = chosen["train"]
        order = [train[i] for i in shuffled([names[c] for c in train], seed)]
        least = at_least if isinstance(at_least, int) else at_least.get("val", 2)
        held = min(max(least, len(train) // 5), len(train) // 2)
        chosen["train"], chosen["val"] = sorted(order[held:]), sorted(order[:held])
    return chosen
