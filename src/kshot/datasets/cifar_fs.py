"""`cifar_fs`: CIFAR-100's classes, dealt out 64/16/20 for few-shot learning (Bertinetto et al. 2019)."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kshot.datasets import cache
from kshot.datasets.archive import open_tree
from kshot.datasets.dataset import Dataset
from kshot.datasets.download import RemoteFile
from kshot.datasets.folder import image_transform
from kshot.datasets.images import decode_tree
from kshot.datasets.layout import class_of, ordered_images
from kshot.datasets.omniglot import not_here
from kshot.datasets.pool import Pool
from kshot.datasets.registry import register
from kshot.datasets.splits import SPLITS
from kshot.datasets.transform import ImageTransform, Transform
from kshot.errors import DataError

_MEAN = (0.5071, 0.4866, 0.4409)
_STD = (0.2673, 0.2564, 0.2762)
_BINARY = "cifar-100-binary.tar.gz"
_RECORD = 2 + 3 * 32 * 32

# The classes of splits/bertinetto, for those who have CIFAR-100 from its authors; all others are for training.
_VAL = (
    "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark "
    "television tractor"
)
_TEST = (
    "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table "
    "telephone wardrobe whale woman worm"
)


@register(
    "cifar_fs",
    description="CIFAR-100 dealt out for few-shot learning: 64/16/20 classes, 600 images each, 32 x 32 RGB",
    licence="none stated",
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    citation="Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers. ICLR 2019",
    files=(
        RemoteFile(
            _BINARY,
            (f"https://www.cs.toronto.edu/~kriz/{_BINARY}",),
            md5="03b5dce01913d631647c71ecec9e9cb8",
            size=168_513_733,
            instead=("cifar100.zip", "cifar100"),
        ),
    ),
)
def load(
    *,
    data_dir: Path,
    transform: Transform | Mapping[str, Any] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Reads `cifar100.zip` (or `cifar100/`) as its authors packed it, else CIFAR-100's own binary archive.

    Args:
        data_dir: the folder that holds `cifar_fs/`.
        transform: how a learner that exists already reads images; by default 32 x 32 RGB, standardised.
        skip_bad: leave out files that cannot be decoded.

    Raises:
        DatasetNotFoundError: neither archive is there.
        DataError: the archive lacks classes of the splits, or is damaged.
    """
    folder = data_dir / "cifar_fs"
    reading = image_transform(transform, "cifar_fs") or ImageTransform((32, 32), 3, mean=_MEAN, std=_STD)
    path = next((p for n in ("cifar100.zip", "cifar100", _BINARY) if (p := folder / n).exists()), None)
    if path is None:
        raise not_here("cifar_fs", folder, "cifar100.zip")
    bad: list[str] = []
    if path.name == _BINARY:
        pool = _binary(path, reading)
        lists = _official_lists(pool.names)
    else:
        pool, bad, lists = _files(path, reading, skip_bad)
    index = {name: c for c, name in enumerate(pool.names)}
    absent = sorted({name for split in SPLITS for name in lists[split]} - index.keys())
    if absent:
        raise DataError(f"{path} lacks {len(absent)} classes of the splits, {absent[0]} among them. Get it again")
    pools = {split: pool.select([index[name] for name in lists[split]]) for split in SPLITS}
    return Dataset("cifar_fs", pools["train"], pools["val"], pools["test"], reading, {"bad_files": bad})


def _official_lists(names: tuple[str, ...]) -> dict[str, list[str]]:
    val, test = _VAL.split(), _TEST.split()
    return {"train": [n for n in names if n not in val and n not in test], "val": val, "test": test}


def _files(path: Path, transform: ImageTransform, skip_bad: bool) -> tuple[Pool, list[str], dict[str, list[str]]]:
    """The pool, the files that were left out, and the class lists: `data/<class>/*`, `splits/bertinetto/*.txt`."""
    with open_tree(path) as tree:
        decoded = decode_tree(tree, transform, select=ordered_images, label="cifar_fs", skip_bad=skip_bad)
        count: dict[str, int] = {}
        for name in decoded.names:
            label = class_of(name).split("/")[-1]
            count[label] = count.get(label, 0) + 1
        # The folder around everything (`cifar100/`) is part of an image's path in the zip, and not in the folder.
        root = decoded.names[0].rpartition("data/")[0] if decoded.names else ""
        lists = {}
        for split in SPLITS:
            name = f"{root}splits/bertinetto/{split}.txt"
            try:
                lists[split] = tree.read(name).decode().split()
            except DataError as error:
                raise DataError(f"expected the class list {name} in {path}: {error}") from error
    return Pool.from_sorted(decoded.x, list(count.values()), list(count)), decoded.bad, lists


def _binary(path: Path, transform: ImageTransform) -> Pool:
    """CIFAR-100's binary archive: records of a coarse label, a fine label and 3 x 32 x 32 bytes."""
    status = path.stat()
    reading = {k: v for k, v in transform.to_dict().items() if k not in ("mean", "std")}
    key = cache.cache_key("cifar-100-binary", str(path.absolute()), status.st_size, status.st_mtime_ns, reading)
    cached = cache.load(key)
    if cached is not None:
        tensors, description = cached
        return Pool.from_sorted(tensors["x"], tensors["count"], description["names"])
    records, names = _records(path)
    labels = records[:, 1]
    if len(names) != 100 or labels.max(initial=0) >= 100:
        raise DataError(f"expected 100 class names and labels below 100 in {path}, got {len(names)} names")
    images = records[:, 2:].reshape(-1, 3, 32, 32)[np.argsort(labels, kind="stable")]
    if transform.shape == (3, 32, 32) and transform.polarity == "as_is":
        x = images
    else:
        x = np.stack([transform.read_array(image.transpose(1, 2, 0), str(path)) for image in images])
    pool = Pool.from_sorted(torch.from_numpy(x), torch.from_numpy(np.bincount(labels, minlength=100)), names)
    cache.save(key, {"x": pool.x, "count": pool.count}, {"names": names})
    return pool


def _records(path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """The records of both files `[60000, 3074]`, and the fine labels' names. Nothing is unpacked to the disk."""
    wanted = {"train.bin": b"", "test.bin": b"", "fine_label_names.txt": b""}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in wanted and member.isfile() and member.size <= 50_000 * _RECORD:
                    file = archive.extractfile(member)
                    wanted[name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it and run: kshot data get cifar_fs") from error
    for name, content in wanted.items():
        if not content or (name.endswith(".bin") and len(content) % _RECORD):
            raise DataError(
                f"expected a whole {name} in {path}, got {len(content):,} bytes. Delete it and get it again"
            )
    data = np.frombuffer(wanted["train.bin"] + wanted["test.bin"], dtype=np.uint8).reshape(-1, _RECORD)
    return data, wanted["fine_label_names.txt"].decode().split()
