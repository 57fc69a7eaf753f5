from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import MakeFolder, png

from kshot import datasets
from kshot.datasets import IdentityTransform, ImageTransform, read_images, read_support
from kshot.datasets.layout import read_layout
from kshot.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    ImageError,
    OverlappingSplitsError,
    TooFewClassesError,
    UnsupportedError,
)

TEN = {f"class {c}": 3 for c in range(10)}


def test_classes_are_dealt_out(make_folder: MakeFolder):
    dataset = datasets.load(make_folder(TEN))
    assert dataset.name == "pictures"
    assert [len(pool) for pool in dataset.splits.values()] == [6, 2, 2]
    assert {*dataset.train.names, *dataset.val.names, *dataset.test.names} == set(TEN)
    assert dataset.train.x.shape == (30, 3, 32, 32)
    assert dataset.info["splits"]["test"] == {"classes": 2, "examples": 6}
    other = datasets.load(str(make_folder(TEN)), seed=1)
    assert other.train.names != dataset.train.names


def test_rows_are_the_files_of_their_class(make_folder: MakeFolder):
    path = make_folder({"a": 1, "b": 3, "c": 2}, "p")
    dataset = datasets.load(path, split="all", size=12, channels=1)
    for c, name in enumerate(dataset.test.names):
        for i, image in enumerate(dataset.test.images(c)):
            assert torch.equal(image, dataset.transform.read(path / name / f"{i}.png"))


def test_pixels_are_standardised_by_the_training_classes(make_folder: MakeFolder):
    dataset = datasets.load(make_folder(TEN), size=12)
    rows = torch.cat([dataset.train.rows(c) for c in range(len(dataset.train))])
    x = dataset.transform.normalise(dataset.train.x[rows])
    assert x.mean((0, 2, 3)).abs().max() < 1e-3
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_the_spec_loads_it_again(make_folder: MakeFolder):
    dataset = datasets.load(make_folder(TEN), size=9, channels=1, seed=3, polarity="auto")
    spec = json.loads(json.dumps(dataset.spec))
    again = datasets.load(**spec)
    assert again.train.names == dataset.train.names
    assert again.transform == dataset.transform
    assert again.spec == dataset.spec


def test_a_zip_with_a_folder_around_everything(make_folder: MakeFolder, tmp_path: Path):
    folder = make_folder(TEN, "inner")
    (folder / "notes.txt").write_text("no image")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "inner")
    dataset, plain = datasets.load(archive), datasets.load(folder)
    assert dataset.train.names == plain.train.names
    assert torch.equal(dataset.train.x, plain.train.x)


def test_folders_called_train_and_test_are_the_splits(make_folder: MakeFolder):
    path = make_folder({"train/a": 1, "train/b": 1, "valid/c": 2, "test/d": 1, "test/e": 1})
    dataset = datasets.load(path)
    assert [pool.names for pool in dataset.splits.values()] == [("a", "b"), ("c",), ("d", "e")]
    everything = datasets.load(path, split="all")
    assert sorted(everything.test.names) == ["a", "b", "c", "d", "e"]


def test_without_val_some_training_classes_are_held_out(make_folder: MakeFolder):
    path = make_folder({**{f"train/{c}": 1 for c in range(10)}, "test/x": 1, "test/y": 1})
    dataset = datasets.load(path)
    assert [len(pool) for pool in dataset.splits.values()] == [8, 2, 2]
    assert dataset.test.names == ("x", "y")


def test_ordinary_splits_share_their_classes_and_are_refused(make_folder: MakeFolder):
    path = make_folder({f"{split}/{label}": 1 for split in ("train", "val", "test") for label in ("cat", "dog")})
    message = r"train and val to have no class in common, but 2 classes are in both .*: cat, dog"
    with pytest.raises(OverlappingSplitsError, match=message):
        datasets.load(path)
    with pytest.raises(OverlappingSplitsError, match="give the path of one of them"):
        datasets.load(path, split="all")


def test_too_few_classes_offer_the_shipped_learner(make_folder: MakeFolder):
    path = make_folder({"a": 2, "b": 2, "c": 2, "d": 2, "e": 2})
    with pytest.raises(TooFewClassesError) as error:
        datasets.load(path)
    assert f"{path} has 5 classes: too few for disjoint train, val and test splits" in str(error.value)
    assert f"kshot adapt characters --support {path} --out task.safetensors" in str(error.value)
    assert len(datasets.load(path, split="all").test) == 5
    with pytest.raises(TooFewClassesError, match=r"at least 5 classes each \(15 in all\).*a way of at most 3"):
        datasets.load(make_folder(TEN, "ten"), at_least=5)


def test_a_bad_image_is_named_or_left_out_and_counted(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture):
    path = make_folder(TEN)
    (path / "class 3" / "broken.png").write_bytes(png()[:60])
    (path / "class 4" / "empty.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"class 3/broken\.png is damaged.*1 more like it"):
        datasets.load(path)
    dataset = datasets.load(path, skip_bad=True)
    assert dataset.info["bad_files"] == ["class 3/broken.png", "class 4/empty.jpg"]
    assert "left out 2 unreadable files" in caplog.text
    assert sum(pool.examples for pool in dataset.splits.values()) == 30
    with pytest.raises(ImageError, match=r"class 3/broken\.png"):  # from the cache, too
        datasets.load(path)
    assert dataset.spec["skip_bad"] is True


def test_a_learners_transform_reads_the_images(make_folder: MakeFolder):
    transform = ImageTransform((10, 10), 1, polarity="auto", mean=(0.25,))
    for given_as in (transform, transform.to_dict()):
        dataset = datasets.load(make_folder(TEN), transform=given_as, split="all")
        assert dataset.transform == transform
        assert dataset.test.x.shape == (30, 1, 10, 10)
        assert datasets.load(**json.loads(json.dumps(dataset.spec))).transform == transform
    with pytest.raises(ConfigError, match="holds images, but the learner was trained on arrays, not files: give"):
        datasets.load(make_folder(TEN), transform=IdentityTransform())


def test_folders_without_classes_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected images in .*, in a subfolder per class, got nothing"):
        datasets.load(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"got 1 other files \(\.txt\)"):
        datasets.load(tmp_path)
    (tmp_path / "one.png").write_bytes(png())
    with pytest.raises(DataError, match=r"got 1 images side by side, such as one\.png\. Put the images of each class"):
        datasets.load(tmp_path)
    with pytest.raises(ConfigError, match="expected split to be 'auto' or 'all', got 'most'"):
        datasets.load(tmp_path, split="most")


@given(
    classes=st.dictionaries(st.text("abcd", min_size=1, max_size=3), st.integers(1, 4), min_size=1, max_size=6),
    around=st.lists(st.text("xyz", min_size=1, max_size=3), max_size=2),
)
def test_the_layout_finds_each_class_under_any_folders(classes: dict[str, int], around: list[str]):
    prefix = "".join(f"{part}/" for part in around)
    names = [f"{prefix}{label}/{i}.jpg" for label, count in classes.items() for i in range(count)]
    layout = read_layout([*names, f"{prefix}readme.md"], "here")
    assert {name: count for _, name, count in layout.classes} == classes
    assert sorted(layout.files) == sorted(names)
    assert layout.ignored == [f"{prefix}readme.md"]
    assert {split for split, _, _ in layout.classes} == {None}


def test_a_class_is_called_by_its_path():
    layout = read_layout(["Latin/a/1.png", "Latin/1.png", "Latin/b.png", "Greek/a/1.png"], "here")
    assert layout.classes == [(None, "Greek/a", 1), (None, "Latin", 2), (None, "Latin/a", 1)]


# ---- support sets and files to predict


def test_a_support_set(make_folder: MakeFolder):
    path = make_folder({"cat": 2, "dog": 1})
    transform = ImageTransform((6, 6))
    x, labels, files = read_support(path, transform)
    assert labels == ["cat", "cat", "dog"]
    assert files == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert torch.equal(x, read_images([path / file for file in files], transform))
    archive = shutil.make_archive(str(path), "zip", path)
    assert torch.equal(read_support(archive, transform)[0], x)


def test_a_support_set_of_one_class_keeps_its_name(make_folder: MakeFolder):
    assert read_support(make_folder({"only": 2}), ImageTransform())[1] == ["only", "only"]


def test_bad_support_files(make_folder: MakeFolder):
    path = make_folder({"cat": 2, "dog": 1})
    (path / "dog" / "0.png").write_bytes(b"bad")
    with pytest.raises(ImageError, match=r"dog/0\.png is not an image"):
        read_support(path, ImageTransform())
    x, labels, files = read_support(path, ImageTransform(), skip_bad=True)
    assert (len(x), labels, files) == (2, ["cat", "cat"], ["cat/0.png", "cat/1.png"])
    for file in ("0", "1"):
        (path / "cat" / f"{file}.png").write_bytes(b"bad")
    with pytest.raises(ImageError):
        read_support(path, ImageTransform(), skip_bad=True)
    with pytest.raises(DatasetNotFoundError, match="there is no file or folder"):
        read_support(path / "none", ImageTransform())


def test_files_to_predict(tmp_path: Path):
    assert read_images([], ImageTransform((5, 5), 3)).shape == (0, 3, 5, 5)
    with pytest.raises(ImageError, match=r"none\.png cannot be read"):
        read_images([tmp_path / "none.png"], ImageTransform())
    with pytest.raises(UnsupportedError, match="expected a learner of images"):
        read_images([tmp_path / "none.png"], IdentityTransform())
