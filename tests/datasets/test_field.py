"""Omniglot, CIFAR-FS and the digits: on small archives of their layout, and on the real ones."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import png
from PIL import Image

from kshot import datasets
from kshot.datasets import ImageTransform
from kshot.datasets.cifar_fs import _TEST, _VAL
from kshot.errors import ConfigError, DataError, DatasetNotFoundError, ImageError

# ---- Omniglot

BACKGROUND = {f"Alphabet_{a}": 2 for a in range(10)}
EVALUATION = {"Unseen": 3}


def drawing(seed: int) -> bytes:
    image = Image.new("1", (105, 105), 1)
    image.paste(0, (10 + seed % 50, 20, 30 + seed % 50, 60))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def small_omniglot(tmp_path: Path) -> Path:
    """An archive of Omniglot's layout with two drawings a character, and lists."""
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    seed = 0
    for which, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        with zipfile.ZipFile(folder / f"{which}.zip", "w") as file:
            for alphabet, characters in alphabets.items():
                for c in range(1, characters + 1):
                    for d in (1, 2):
                        seed += 1
                        file.writestr(f"{which}/{alphabet}/character{c:02d}/{seed:04d}_{d:02d}.png", drawing(seed))
    lists = {"train": ["Alphabet_0/character01", "Unseen/character01"], "val": ["Alphabet_1/character02"]}
    lists["test"] = ["Unseen/character02", "Alphabet_0/character02"]
    for split, characters in lists.items():
        lines = [f"{character}/rot{turn}" for character in characters for turn in ("000", "090", "180", "270")]
        (folder / f"vinyals_{split}.txt").write_text("\n".join(lines))
    return tmp_path / "data"


def test_rotations_are_classes(small_omniglot: Path):
    dataset = datasets.load("omniglot", data_dir=small_omniglot)
    assert [len(pool) for pool in dataset.splits.values()] == [8, 4, 8]
    train = dataset.train
    assert train.names[:2] == ("Alphabet_0/character01/rot000", "Alphabet_0/character01/rot090")
    assert train.turns.tolist() == [0, 1, 2, 3] * 2
    assert train.kin.unique().tolist() == sorted({int(k) for k in train.kin[::4]})
    assert torch.equal(train.images(1), torch.rot90(train.images(0), 1, (-2, -1)))
    assert not train.random_turns


def test_ink_is_bright_on_dark(small_omniglot: Path):
    dataset = datasets.load("omniglot", data_dir=small_omniglot, size=20)
    x = dataset.transform.normalise(dataset.test.images(0))
    assert x.shape == (2, 1, 20, 20)
    assert x[:, :, 0].max() == 0
    assert x.max() == 1


def test_rotations_at_random_and_none(small_omniglot: Path):
    for rotations, drawn in (("random", True), ("none", False)):
        dataset = datasets.load("omniglot", data_dir=small_omniglot, rotations=rotations)
        assert dataset.train.names == ("Alphabet_0/character01", "Unseen/character01")
        assert dataset.train.random_turns is drawn
        assert dataset.train.turns.sum() == 0


def test_the_official_split_holds_out_alphabets(small_omniglot: Path):
    dataset = datasets.load("omniglot", data_dir=small_omniglot, split="background_evaluation", rotations="none")
    alphabets = [{name.split("/")[0] for name in pool.names} for pool in dataset.splits.values()]
    assert [len(found) for found in alphabets] == [8, 2, 1]
    assert alphabets[2] == {"Unseen"}
    assert not alphabets[0] & alphabets[1]
    assert len(dataset.train) == 16
    turned = datasets.load("omniglot", data_dir=small_omniglot, split="background_evaluation", seed=1)
    assert len(turned.train) == 64
    assert {n.split("/")[0] for n in turned.val.names} != alphabets[1]


def test_extracted_folders_serve_as_well(small_omniglot: Path):
    before = datasets.load("omniglot", data_dir=small_omniglot)
    folder = small_omniglot / "omniglot"
    for which in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(folder / f"{which}.zip") as file:
            file.extractall(folder)
        (folder / f"{which}.zip").unlink()
    after = datasets.load("omniglot", data_dir=small_omniglot)
    assert after.train.names == before.train.names
    assert torch.equal(after.train.x, before.train.x)
    again = datasets.load(**json.loads(json.dumps(after.spec)))
    assert again.test.names == after.test.names


def test_omniglot_as_another_learner_reads_it(small_omniglot: Path):
    transform = ImageTransform((16, 16), 3, polarity="auto")
    dataset = datasets.load("omniglot", data_dir=small_omniglot, transform=transform)
    assert dataset.train.x.shape[1:] == (3, 16, 16)
    assert dataset.train.images(0)[0, :, 0].max() < 10  # the filter rings a little


def test_what_is_missing_of_omniglot_is_named(small_omniglot: Path):
    folder = small_omniglot / "omniglot"
    for options, message in (
        ({"split": "vinyal"}, "expected split to be 'vinyals' or 'background_evaluation', got 'vinyal'"),
        ({"rotations": "all"}, "expected rotations to be 'classes', 'random' or 'none', got 'all'"),
    ):
        with pytest.raises(ConfigError, match=message):
            datasets.load("omniglot", data_dir=small_omniglot, **options)
    (folder / "vinyals_val.txt").write_text("Alphabet_0/character09/rot000")
    with pytest.raises(DataError, match="name 1 characters that the archives lack, such as Alphabet_0/character09"):
        datasets.load("omniglot", data_dir=small_omniglot)
    (folder / "vinyals_val.txt").write_text("Alphabet_0/character01/rot45")
    with pytest.raises(DataError, match=r"line 1 of .*vinyals_val\.txt, got 'Alphabet_0/character01/rot45'"):
        datasets.load("omniglot", data_dir=small_omniglot)
    (folder / "vinyals_val.txt").unlink()
    message = r"expected .*vinyals_val\.txt\. Get it with: kshot data get omniglot.*split='background_evaluation'"
    with pytest.raises(DatasetNotFoundError, match=message):
        datasets.load("omniglot", data_dir=small_omniglot)
    (folder / "images_evaluation.zip").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"expected .*images_evaluation\.zip"):
        datasets.load("omniglot", data_dir=small_omniglot, split="background_evaluation")


def test_a_train_list_that_shares_a_character_is_refused(small_omniglot: Path):
    (small_omniglot / "omniglot" / "vinyals_val.txt").write_text("Alphabet_0/character01/rot000")
    (small_omniglot / "omniglot" / "vinyals_train.txt").write_text("Alphabet_0/character01/rot090")
    with pytest.raises(DataError, match="one kin, such as rotations of one character"):
        datasets.load("omniglot", data_dir=small_omniglot)


def test_the_real_omniglot(real_data: Path):
    dataset = datasets.load("omniglot", data_dir=real_data)
    assert [len(pool) for pool in dataset.splits.values()] == [4112, 688, 1692]
    for pool in dataset.splits.values():
        assert set(pool.count.tolist()) == {20}
        assert torch.bincount(pool.kin).max() == 4
    assert dataset.train.x.shape == (32_460, 1, 28, 28)
    x = dataset.transform.normalise(dataset.train.x[::97])
    assert 0.05 < float(x.mean()) < 0.12  # a thin bright line on dark
    official = datasets.load("omniglot", data_dir=real_data, split="background_evaluation", rotations="random")
    assert len(official.train) + len(official.val) == 964
    assert len(official.test) == 659
    assert len({name.split("/")[0] for name in official.val.names}) == 5
    simple = datasets.load("omniglot", data_dir=real_data, rotations="none")
    assert [len(pool) for pool in simple.splits.values()] == [1028, 172, 423]


# ---- CIFAR-FS

CIFAR = {"train": ["apple", "bear"], "val": ["camel"], "test": ["woman", "worm"]}


def small_cifar(folder: Path, suffix: str) -> None:
    with zipfile.ZipFile(folder / "cifar100.zip", "w") as file:
        for split, labels in CIFAR.items():
            file.writestr(f"cifar100/splits/bertinetto/{split}.txt", "\n".join(labels) + "\n")
            for c, label in enumerate(labels):
                for i in range(3):
                    out = io.BytesIO()
                    Image.open(io.BytesIO(png(c * 7 + i, (32, 32), "RGB"))).save(out, suffix, lossless=True)
                    file.writestr(f"cifar100/data/{label}/{label}_s_{i:06d}.{suffix}", out.getvalue())


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_cifar_fs(tmp_path: Path, suffix: str):
    (tmp_path / "cifar_fs").mkdir()
    small_cifar(tmp_path / "cifar_fs", suffix)
    dataset = datasets.load("cifar_fs", data_dir=tmp_path)
    assert {split: list(pool.names) for split, pool in dataset.splits.items()} == CIFAR
    assert dataset.train.images(0).shape == (3, 3, 32, 32)
    expected = np.asarray(Image.open(io.BytesIO(png(7 + 2, (32, 32), "RGB")))).transpose(2, 0, 1)
    assert np.array_equal(dataset.train.images(1)[2].numpy(), expected)
    with zipfile.ZipFile(tmp_path / "cifar_fs" / "cifar100.zip") as file:
        file.extractall(tmp_path / "cifar_fs")
    (tmp_path / "cifar_fs" / "cifar100.zip").unlink()
    assert torch.equal(datasets.load("cifar_fs", data_dir=tmp_path).train.x, dataset.train.x)
    (tmp_path / "cifar_fs" / "cifar100" / "splits" / "bertinetto" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"expected the class list .*val\.txt"):
        datasets.load("cifar_fs", data_dir=tmp_path)


def binary_cifar(path: Path, names: list[str], **change: bytes) -> np.ndarray:
    """CIFAR-100's own archive, with two images a class; returns its images by class `[200, 3, 32, 32]`."""
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 32, 32), dtype=np.uint8)
    labels = np.tile(np.arange(100, dtype=np.uint8), 2)
    records = np.concatenate([np.zeros((200, 1), np.uint8), labels[:, None], images.reshape(200, -1)], 1)
    files = {
        "train.bin": records[:150].tobytes(),
        "test.bin": records[150:].tobytes(),
        "fine_label_names.txt": "\n".join(names).encode() + b"\n",
        **change,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return images[np.argsort(labels, kind="stable")]


def test_cifar_fs_from_the_archive_of_its_authors(tmp_path: Path):
    (tmp_path / "cifar_fs").mkdir()
    path = tmp_path / "cifar_fs" / "cifar-100-binary.tar.gz"
    held = [*_VAL.split(), *_TEST.split()]
    names = sorted([*held, *(f"other_{i}" for i in range(64))])
    images = binary_cifar(path, names)
    for _ in range(2):  # decoded, and from the cache
        dataset = datasets.load("cifar_fs", data_dir=tmp_path)
        assert [len(pool) for pool in dataset.splits.values()] == [64, 16, 20]
        assert np.array_equal(dataset.train.x.numpy(), images)
        assert np.array_equal(dataset.test.images(0).numpy(), images[2 * names.index("baby") :][:2])
    grey = datasets.load("cifar_fs", data_dir=tmp_path, transform=ImageTransform((28, 28)))
    assert grey.train.x.shape == (200, 1, 28, 28)
    binary_cifar(path, names[:-1])
    with pytest.raises(DataError, match="expected 100 class names and labels below 100 in .*, got 99 names"):
        datasets.load("cifar_fs", data_dir=tmp_path)
    binary_cifar(path, names, **{"test.bin": b"cut"})
    with pytest.raises(DataError, match=r"expected a whole test\.bin in .*, got 3 bytes"):
        datasets.load("cifar_fs", data_dir=tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="is damaged .* kshot data get cifar_fs"):
        datasets.load("cifar_fs", data_dir=tmp_path)


def test_a_bad_file_of_an_archive_is_named(tmp_path: Path):
    (tmp_path / "cifar_fs").mkdir()
    small_cifar(tmp_path / "cifar_fs", "png")
    with zipfile.ZipFile(tmp_path / "cifar_fs" / "cifar100.zip", "a") as file:
        file.writestr("cifar100/data/apple/bad.png", b"not an image")
    with pytest.raises(ImageError, match=r"cifar100/data/apple/bad\.png is not an image"):
        datasets.load("cifar_fs", data_dir=tmp_path)
    assert datasets.load("cifar_fs", data_dir=tmp_path, skip_bad=True).info["bad_files"] == [
        "cifar100/data/apple/bad.png"
    ]


def test_the_real_cifar_fs(real_data: Path):
    dataset = datasets.load("cifar_fs", data_dir=real_data)
    assert [len(pool) for pool in dataset.splits.values()] == [64, 16, 20]
    assert dataset.train.x.shape == (60_000, 3, 32, 32)
    assert {int(count) for pool in dataset.splits.values() for count in pool.count} == {600}
    assert sorted(dataset.val.names) == _VAL.split()
    assert sorted(dataset.test.names) == _TEST.split()
    rows = torch.cat([dataset.train.rows(c)[:20] for c in range(64)])
    x = dataset.transform.normalise(dataset.train.x[rows])
    assert x.mean((0, 2, 3)).abs().max() < 0.15
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.15


# ---- digits


def test_all_digits_are_for_evaluation():
    dataset = datasets.load("digits")
    assert [len(pool) for pool in dataset.splits.values()] == [0, 0, 10]
    assert dataset.test.names == tuple("0123456789")
    assert dataset.test.x.shape == (1797, 1, 28, 28)
    assert dataset.test.count.min() >= 170
    # A nought is a bright ring around a dark middle, on dark.
    nought = dataset.transform.normalise(dataset.test.images(0)).mean((0, 1))
    assert nought[:, 0].max() < 0.1
    assert nought[12:16, 12:16].mean() < 0.25
    assert nought.max() > 0.6


def test_digits_in_thirds():
    dataset = datasets.load("digits", split="thirds", size=8)
    assert [len(pool) for pool in dataset.splits.values()] == [4, 3, 3]
    assert datasets.load("digits", split="thirds", seed=1).train.names != dataset.train.names
    assert datasets.load(**json.loads(json.dumps(dataset.spec))).val.names == dataset.val.names
    with pytest.raises(ConfigError, match="expected split to be 'all' or 'thirds', got 'half'"):
        datasets.load("digits", split="half")


@pytest.mark.parametrize("polarity", ["as_is", "invert", "auto"])
def test_digits_are_bright_on_dark_for_every_learner_of_ink(polarity: str):
    x = datasets.load("digits", transform=ImageTransform((28, 28), polarity=polarity)).test.x
    assert x[:, :, :, 0].float().mean() < 20
