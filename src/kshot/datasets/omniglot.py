"""`omniglot`: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people (Lake et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kshot.datasets.archive import open_tree
from kshot.datasets.dataset import Dataset
from kshot.datasets.download import RemoteFile
from kshot.datasets.folder import image_transform
from kshot.datasets.images import decode_tree
from kshot.datasets.layout import class_of, ordered_images
from kshot.datasets.pool import Pool
from kshot.datasets.registry import register
from kshot.datasets.splits import SPLITS, shuffled
from kshot.datasets.transform import ImageTransform, Transform
from kshot.errors import ConfigError, DataError, DatasetNotFoundError

_SETS = ("images_background", "images_evaluation")
_OFFICIAL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
_MIRROR = "https://github.com/brendenlake/omniglot/raw/master/python/"
_LISTS = "https://raw.githubusercontent.com/jakesnell/prototypical-networks/master/data/omniglot/splits/vinyals/"
_HELD_OUT_ALPHABETS = 5


def _archive(name: str, md5: str) -> RemoteFile:
    return RemoteFile(f"{name}.zip", (f"{_OFFICIAL}{name}.zip", f"{_MIRROR}{name}.zip"), md5=md5, instead=(name,))


def _list(split: str, sha256: str, size: int) -> RemoteFile:
    return RemoteFile(f"vinyals_{split}.txt", (f"{_LISTS}{split}.txt",), sha256=sha256, size=size)


@register(
    "omniglot",
    description="1,623 handwritten characters of 50 alphabets, 20 drawings each, 105 x 105",
    licence="MIT",
    source="https://github.com/brendenlake/omniglot",
    citation="Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program induction. "
    "Science 350 (2015)",
    files=(
        _archive("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
        _archive("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
        _list("train", "984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0", 133_244),
        _list("val", "11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a", 21_312),
        _list("test", "845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204", 50_372),
    ),
)
def load(
    *,
    data_dir: Path,
    split: str = "vinyals",
    rotations: str = "classes",
    size: int = 28,
    transform: Transform | Mapping[str, Any] | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Dataset:
    """Reads the official archives (or the folders that were extracted from them) in `<data_dir>/omniglot`.

    Ink is bright on dark, in [0, 1].

    Args:
        data_dir: the folder that holds `omniglot/`.
        split: "vinyals": the lists of Vinyals et al. (2016) as ProtoNet uses them, 1,028/172/423 characters;
            "background_evaluation": the official one, whose evaluation alphabets are `test`, and of whose 30 background
            alphabets five, chosen by `seed`, are `val`.
        rotations: "classes": each quarter turn of a character is a class of its own (ProtoNet; x4 classes; two turns of
            one character never share an episode); "random": the sampler turns each class of an episode at random
            (MAML); "none".
        size: height and width in pixels.
        transform: in place of `size`: how a learner that exists already reads images.
        seed: which background alphabets are held out.
        skip_bad: leave out files that cannot be decoded.

    Raises:
        DatasetNotFoundError: the archives or the lists are not there.
        DataError: a list names a character that the archives lack.
    """
    if split not in ("vinyals", "background_evaluation"):
        raise ConfigError(f"expected split to be 'vinyals' or 'background_evaluation', got {split!r}")
    if rotations not in ("classes", "random", "none"):
        raise ConfigError(f"expected rotations to be 'classes', 'random' or 'none', got {rotations!r}")
    folder = data_dir / "omniglot"
    reading = image_transform(transform, "omniglot") or ImageTransform((size, size), polarity="invert")
    characters, background, bad = _characters(folder, reading, skip_bad)
    if split == "vinyals":
        entries = {name: _vinyals(folder, name) for name in SPLITS}
    else:
        held_out, learned = _hold_out(characters.names[:background], seed)
        rest = list(characters.names[background:])
        named = {"train": learned, "val": held_out, "test": rest}
        entries = {name: [(c, t) for c in of for t in range(4)] for name, of in named.items()}
    pools = {name: _turned(characters, entries[name], rotations) for name in SPLITS}
    return Dataset("omniglot", pools["train"], pools["val"], pools["test"], reading, {"bad_files": bad})


def _characters(folder: Path, transform: ImageTransform, skip_bad: bool) -> tuple[Pool, int, list[str]]:
    """All characters as one pool, how many of them belong to the background set, and the files that were left out."""
    parts, names, counts, bad = [], [], [], []
    background = 0
    for which in _SETS:
        path = next((p for p in (folder / which, folder / f"{which}.zip") if p.exists()), None)
        if path is None:
            raise not_here("omniglot", folder, f"{which}.zip")
        with open_tree(path) as tree:
            decoded = decode_tree(tree, transform, select=_drawings, label=f"omniglot-{which}", skip_bad=skip_bad)
        count: dict[str, int] = {}
        for name in decoded.names:
            character = "/".join(class_of(name).split("/")[-2:])
            count[character] = count.get(character, 0) + 1
        if not count:
            raise DataError(
                f"expected {which}/<alphabet>/character<NN>/*.png in {path}, got no such file: it is not the official "
                "archive. Delete it and run: kshot data get omniglot"
            )
        parts.append(decoded.x)
        names += list(count)
        counts += list(count.values())
        bad += decoded.bad
        background = background or len(names)
    return Pool.from_sorted(torch.cat(parts), counts, names), background, bad


def _drawings(names: list[str]) -> list[str]:
    return ordered_images([name for name in names if "/character" in f"/{class_of(name)}"])


def _vinyals(folder: Path, split: str) -> list[tuple[str, int]]:
    """The (character, quarter turns) that a list holds."""
    path = folder / f"vinyals_{split}.txt"
    if not path.is_file():
        error = not_here("omniglot", folder, path.name)
        raise DatasetNotFoundError(f"{error}; or use split='background_evaluation', which needs no lists")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split(), 1):
        character, _, turn = line.rpartition("/rot")
        if not character or turn not in ("000", "090", "180", "270"):
            raise DataError(
                f"expected alphabet/character/rot000 (or 090, 180, 270) in line {number} of {path}, got {line!r}"
            )
        found.append((character, int(turn) // 90))
    return found


def _hold_out(names: tuple[str, ...], seed: int) -> tuple[list[str], list[str]]:
    """The characters of a few alphabets, and those of the others."""
    alphabets = sorted({name.split("/")[0] for name in names})
    few = min(_HELD_OUT_ALPHABETS, max(1, len(alphabets) // 5))
    chosen = {alphabets[i] for i in shuffled(alphabets, seed)[:few]}
    return [n for n in names if n.split("/")[0] in chosen], [n for n in names if n.split("/")[0] not in chosen]


def _turned(characters: Pool, entries: list[tuple[str, int]], rotations: str) -> Pool:
    """The pool of (character, quarter turns), by one of the conventions."""
    index = {name: c for c, name in enumerate(characters.names)}
    absent = sorted({name for name, _ in entries} - index.keys())
    if absent:
        raise DataError(
            f"the lists name {len(absent)} characters that the archives lack, such as {absent[0]}: expected the whole "
            "images_background.zip and images_evaluation.zip. Delete the damaged one and run: kshot data get omniglot"
        )
    if rotations != "classes":
        upright = list(dict.fromkeys(name for name, _ in entries))
        pool = characters.select([index[name] for name in upright])
        return replace(pool, random_turns=rotations == "random")
    pool = characters.select([index[name] for name, _ in entries])
    turns = torch.tensor([turn for _, turn in entries], dtype=torch.int64)
    return replace(pool, turns=turns, names=tuple(f"{name}/rot{turn * 90:03d}" for name, turn in entries))


def not_here(name: str, folder: Path, file: str) -> DatasetNotFoundError:
    """The error that says how to get a dataset whose files are not there."""
    return DatasetNotFoundError(
        f"{name} is not here: expected {folder / file}. Get it with: kshot data get {name}; or point --data-dir (or "
        f"KSHOT_DATA) to the folder that holds {name}/"
    )
