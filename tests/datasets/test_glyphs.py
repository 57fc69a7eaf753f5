"""`glyphs`: letters drawn from matplotlib's fonts, classes that are looks, and splits that share none."""

from __future__ import annotations

import unicodedata
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot import datasets, randomness
from kshot.datasets import glyphs as glyphs_module
from kshot.datasets import glyphs_fonts, glyphs_looks, glyphs_warp
from kshot.datasets.dataset import Dataset
from kshot.datasets.glyphs_fonts import BOX, CANVAS, RANK, Drawings
from kshot.datasets.glyphs_looks import Looks
from kshot.datasets.transform import ImageTransform
from kshot.errors import ConfigError, DatasetNotFoundError


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    return glyphs_fonts.draw_letters(glyphs_fonts.text_fonts())


@pytest.fixture(scope="module")
def looks(drawings: Drawings) -> Looks:
    return glyphs_looks.group(drawings)


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return datasets.load("glyphs")


def class_of(looks: Looks, letter: str) -> int:
    return next(c for c, letters in enumerate(looks.members) if letter in letters)


# Fonts and letters


def test_text_fonts_only() -> None:
    stems = [path.stem for path in glyphs_fonts.text_fonts()]
    assert len(stems) >= 20
    assert {"DejaVuSans", "DejaVuSerif-BoldItalic", "STIXGeneral", "cmr10"} <= set(stems)
    unwanted = ("LastResort", "cmex", "cmsy", "STIXSiz", "STIXNonUni")
    assert not [stem for stem in stems if stem.startswith(unwanted) or "Display" in stem]


@pytest.mark.parametrize(
    "name", ["LastResortHE-Regular.ttf", "cmex10.ttf", "STIXSizOneSymReg.ttf", "DejaVuSansDisplay.ttf"]
)
def test_fonts_without_letters_of_their_own_are_left_out(name: str) -> None:
    assert not glyphs_fonts.is_text_font(Path(name))


def test_no_fonts_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"expected matplotlib's fonts .* Reinstall matplotlib with pip"):
        glyphs_fonts.text_fonts(tmp_path)


@pytest.mark.parametrize("letter", "AaǅЖωղ\u0e81\u10d0")
def test_letters(letter: str) -> None:
    assert glyphs_fonts.is_letter(letter)


@pytest.mark.parametrize(
    "character", ["7", "\u0661", "!", "\u02b0", "\U0001d400", "\u00aa", "\u212a", "\u1f71", "\u0301", "漢"]
)
def test_what_is_no_letter_in_its_own_right(character: str) -> None:
    """Digits, a modifier letter, a mathematical A, an ordinal, the Kelvin sign, a second ά, an accent, a Han letter."""
    assert not glyphs_fonts.is_letter(character)


def test_letters_stand_in_six_fonts_each_with_ink(drawings: Drawings) -> None:
    assert 1600 <= len(drawings.letters) <= 1800
    assert list(drawings.letters) == sorted(drawings.letters)
    assert np.bincount(drawings.letter).min() >= 6
    assert (drawings.ink >= 128).any(axis=(1, 2)).all()
    sides = [(drawings.ink > 0).any(axis=axis) for axis in (1, 2)]
    longer = np.maximum(*(CANVAS - side.argmax(axis=1) - side[:, ::-1].argmax(axis=1) for side in sides))
    assert longer.max() == BOX
    assert longer.min() >= BOX - 1


def test_computer_modern_is_used_for_ascii_only(drawings: Drawings) -> None:
    """Its maps call the ligatures and Greek capitals of TeX's encoding accented Latin letters."""
    cm = [f for f, name in enumerate(drawings.fonts) if name.startswith("cm")]
    letters = {drawings.letters[i] for i in drawings.letter[np.isin(drawings.font, cm)]}
    assert len(letters) == 52
    assert all(letter.isascii() for letter in letters)


def test_too_many_fonts_asked_for() -> None:
    with pytest.raises(DatasetNotFoundError, match="expected letters that stand in 99 fonts or more"):
        datasets.load("glyphs", fonts=99)


# Looks


@pytest.mark.parametrize("letters", ["AАΑ", "oοоօO", "cсC", "ИиͶ", "sѕS", "Vv", "hһհ", "KКΚ", "ƏəӘә"])
def test_letters_that_look_alike_are_one_class(looks: Looks, letters: str) -> None:
    assert len({class_of(looks, letter) for letter in letters}) == 1


@pytest.mark.parametrize("pair", ["Aa", "Gg", "ec", "éè", "ПН", "ნბ", "nh", "EF", "OQ", "дл"])
def test_letters_that_differ_are_two(looks: Looks, pair: str) -> None:
    assert class_of(looks, pair[0]) != class_of(looks, pair[1])


def test_some_280_glyphs_are_merged_without_a_giant(looks: Looks) -> None:
    merged = [letters for letters in looks.members if len(letters) > 1]
    assert 200 <= len(merged) <= 400
    assert max(map(len, merged)) <= 16


def test_counts_of_the_splits(looks: Looks) -> None:
    counts = {name: looks.split.count(name) for name in RANK}
    assert counts["train"] >= 850
    assert counts["val"] >= 90
    assert counts["test"] >= 150
    assert min(map(len, looks.pictures)) >= 6


def test_a_class_that_spans_scripts_belongs_to_the_first_split(looks: Looks) -> None:
    for letters, split in zip(looks.members, looks.split, strict=True):
        assert RANK[split] <= min(RANK[glyphs_fonts.SCRIPTS[glyphs_fonts.script(letter)]] for letter in letters)
    assert looks.split[class_of(looks, "О")] == "train"
    assert looks.split[class_of(looks, "Ж")] == "val"
    assert looks.split[class_of(looks, "ა")] == "test"


def test_no_split_has_a_picture_that_is_one_of_another_split(drawings: Drawings, looks: Looks) -> None:
    """Neither the same pixels in any two fonts, nor ink within one pixel of 28 in the same font."""
    rows = {name: [c for c, split in enumerate(looks.split) if split == name] for name in RANK}
    pictures = {name: np.concatenate([looks.pictures[c] for c in chosen]) for name, chosen in rows.items()}
    content = {name: {drawings.ink[i].tobytes() for i in chosen} for name, chosen in pictures.items()}
    for first, second in combinations(RANK, 2):
        assert not content[first] & content[second]
    for f in range(len(drawings.fonts)):
        here = np.flatnonzero(drawings.font == f)
        shapes = glyphs_looks._Shapes(drawings.ink[here])
        owner = np.full(len(here), -1)
        for rank, chosen in enumerate(pictures.values()):
            owner[np.isin(here, chosen)] = rank
        a, b = shapes.pairs(glyphs_looks.SAME)
        kept = (owner[a] >= 0) & (owner[b] >= 0)
        assert (owner[a] == owner[b])[kept].all()


def test_grouping_in_small() -> None:
    """Latin a and b, and a Cyrillic letter drawn as the a in two fonts of three: one class, in train."""
    bar, ring = np.zeros((2, CANVAS, CANVAS), dtype=np.uint8)
    bar[8:48, 26:30] = 255
    ring[8:48, 8:48] = 255
    ring[14:42, 14:42] = 0
    letters = ("a", "b", "ж", "я")
    shown = {"a": [bar] * 3, "b": [ring] * 3, "ж": [bar, bar, bar.T], "я": [bar.T, bar.T, ring]}
    drawings = Drawings(
        letters,
        ("one", "two", "three"),
        np.repeat(np.arange(4), 3),
        np.tile(np.arange(3), 4),
        np.stack([picture for letter in letters for picture in shown[letter]]),
    )
    looks = glyphs_looks.group(drawings, at_least=2)
    assert looks.members == ("aж", "b", "я")
    assert looks.split == ("train", "train", "val")
    assert [len(pictures) for pictures in looks.pictures] == [6, 3, 2]  # я as a ring is b's
    assert looks.left_out == 1


def test_a_radius_is_a_distance_of_ink() -> None:
    pictures = np.zeros((4, CANVAS, CANVAS), dtype=np.uint8)
    for i, column in enumerate([20, 22, 23, 30]):
        pictures[i, 8:48, column] = 255
    shapes = glyphs_looks._Shapes(pictures)
    a, b = shapes.pairs(2.0)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 1), (1, 2)]
    assert shapes.within(np.array([0, 0]), np.array([2, 3]), 3.0).tolist() == [True, False]


# Distortions


def test_an_example_depends_on_its_key_alone(drawings: Drawings) -> None:
    ink, keys = torch.from_numpy(drawings.ink[:300]), randomness.bits(0, np.arange(300))
    all_at_once = glyphs_warp.warp(ink, keys, 28)
    alone = glyphs_warp.warp(ink[200:201], keys[200:201], 28)
    # The last bit of a matrix product may depend on its size; a grey level is far coarser.
    assert (all_at_once[200].int() - alone[0].int()).abs().max() <= 1
    other = glyphs_warp.warp(ink[200:201], randomness.bits(1, np.arange(200, 201)), 28)
    assert (other[0].int() - alone[0].int()).abs().max() > 50


@pytest.mark.parametrize("size", [16, 28, 32, 84])
def test_a_still_hand_only_scales(drawings: Drawings, size: int) -> None:
    still = glyphs_warp.Hand(5 / 7, 5 / 7, 0, 0, 0, 0, 0, 0, 0)  # BOX / CANVAS
    ink = torch.from_numpy(drawings.ink[:8])
    x = glyphs_warp.warp(ink, randomness.bits(0, np.arange(8)), size, still)
    assert x.shape == (8, 1, size, size)
    assert x.dtype == torch.uint8
    small = torch.nn.functional.interpolate(ink[:, None].float(), size=(size, size), mode="area")
    assert (x.float() - small).abs().mean() < 8


def test_no_pictures() -> None:
    assert glyphs_warp.warp(torch.zeros((0, CANVAS, CANVAS)), np.zeros(0, np.uint64), 28).shape == (0, 1, 28, 28)


# The dataset


def test_the_dataset(glyphs: Dataset) -> None:
    assert glyphs.name == "glyphs"
    assert glyphs.spec == {"name_or_path": "glyphs", "seed": 0, "size": 28, "examples": 20, "fonts": 6,
                           "transform": None}  # fmt: skip
    for pool in glyphs.splits.values():
        assert pool.x.shape[1:] == (1, 28, 28)
        assert set(pool.count.tolist()) == {20}
    datasets.check_disjoint(glyphs.splits)
    assert set(glyphs.info["scripts"]["test"]) == {"armenian", "georgian"}
    assert set(glyphs.info["scripts"]["val"]) == {"cyrillic", "lao"}
    assert glyphs.info["looks"]["latin/A"].startswith("AΑА")
    assert "LastResortHE-Regular" not in glyphs.info["fonts"]
    assert {unicodedata.category(name[-1])[0] for name in glyphs.train.names} == {"L"}


def test_examples_are_all_different_with_bright_ink_on_dark(glyphs: Dataset) -> None:
    hashes = glyphs.train.example_hashes()
    assert len(hashes) == sum(pool.examples for pool in glyphs.splits.values())
    assert len(hashes.unique()) == len(hashes)
    x = glyphs.train.x.float()
    assert (x.amax(dim=(1, 2, 3)) == 255).all()
    assert 25 < x.mean() < 100


def test_the_same_from_the_cache_and_without_it(
    glyphs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = datasets.load(**glyphs.spec)
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path))
    fresh = datasets.load(**glyphs.spec)
    for other in (cached, fresh):
        assert other.train.names == glyphs.train.names
        assert other.test.names == glyphs.test.names
        assert torch.equal(other.train.x, glyphs.train.x)
        assert other.info == glyphs.info


def test_another_seed_distorts_otherwise(drawings: Drawings, looks: Looks, glyphs: Dataset) -> None:
    """Classes do not depend on it, nor an example on how many there are."""
    ink, pictures = drawings.ink, looks.pictures[class_of(looks, "A")]
    few, many, other = (
        glyphs_module._pick(ink, pictures, n, randomness.bits(seed, 7)) for n, seed in ((3, 0), (50, 0), (3, 1))
    )
    assert few.tolist() == many[:3].tolist() != other.tolist()
    assert len(set(many.tolist())) == len({ink[i].tobytes() for i in pictures}) or len(set(many.tolist())) == 50


def test_size_seed_and_number_of_examples(glyphs: Dataset) -> None:
    other = datasets.load("glyphs", seed=1, size=32, examples=3)
    assert other.test.x.shape[1:] == (1, 32, 32)
    assert set(other.test.count.tolist()) == {3}
    assert other.test.names == glyphs.test.names
    small = torch.nn.functional.interpolate(other.test.x.float(), size=28, mode="area")
    rows = other.test.start * 20 // 3
    assert (small[other.test.start] - glyphs.test.x[rows].float()).abs().mean() > 5
    assert other.transform.to_dict()["size"] == [32, 32]


@pytest.mark.parametrize("options", [{"size": 4}, {"examples": 0}, {"fonts": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"expected glyphs' {next(iter(options))} to be at least"):
        datasets.load("glyphs", **options)


def test_a_scan_is_turned_to_bright_ink(glyphs: Dataset) -> None:
    scan = np.full((60, 40), 240, dtype=np.uint8)
    scan[10:50, 18:22] = 20
    x = glyphs.transform.read(scan)  # type: ignore[attr-defined]
    assert x.shape == (1, 28, 28)
    assert x[0, 14, 14] > 200
    assert x[0, 0, 0] < 50


def test_read_as_a_learner_reads_images(glyphs: Dataset) -> None:
    colour = ImageTransform((16, 16), channels=3, polarity="auto", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    read = datasets.load("glyphs", transform=colour)
    assert read.transform == colour
    assert read.test.x.shape == (len(glyphs.test.x), 3, 16, 16)
    assert float(read.test.x[:200].float().mean()) < 128, "ink is bright, the ground dark"
    assert torch.equal(datasets.load("glyphs", transform=glyphs.transform).test.x, glyphs.test.x)
