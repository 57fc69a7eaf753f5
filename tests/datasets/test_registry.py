from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kshot import datasets
from kshot.datasets import Dataset, IdentityTransform, Pool, registry
from kshot.datasets.download import RemoteFile
from kshot.errors import ConfigError, DataError, DatasetNotFoundError, OverlappingSplitsError


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def numbers(*names: str) -> Pool:
    return Pool.from_arrays(torch.arange(float(len(names)))[:, None], list(names))


def test_the_built_in_datasets():
    assert {"cifar_fs", "csv", "digits", "folder", "glyphs", "omniglot"} <= set(datasets.names())
    for name in datasets.names():
        info = datasets.info(name, data_dir="/nowhere")
        assert info["description"]
        assert info["licence"]
        json.dumps(info)


def test_info_says_what_is_missing(tmp_path: Path):
    info = datasets.info("omniglot", tmp_path)
    assert not info["available"]
    assert "images_background.zip" in info["missing"]
    assert info["location"] == str(tmp_path / "omniglot")
    assert info["options"]["rotations"] == "classes"
    (tmp_path / "omniglot" / "images_background").mkdir(parents=True)
    assert "images_background.zip" not in datasets.info("omniglot", tmp_path)["missing"]
    assert datasets.info("digits", tmp_path)["available"]


@pytest.mark.parametrize("name", ["omniglot", "cifar_fs"])
def test_a_dataset_that_is_not_here_says_how_to_get_it(tmp_path: Path, name: str):
    with pytest.raises(DatasetNotFoundError) as error:
        datasets.load(name, data_dir=tmp_path)
    message = str(error.value)
    assert f"{name} is not here: expected {tmp_path / name}" in message
    assert f"kshot data get {name}" in message
    assert "--data-dir (or KSHOT_DATA)" in message


def test_names_and_options_are_suggested():
    with pytest.raises(DatasetNotFoundError, match=r"no dataset called 'omniglt'\. Did you mean 'omniglot'\?"):
        datasets.load("omniglt")
    with pytest.raises(ConfigError, match=r"digits has no option 'sise'\. Did you mean 'size'\?"):
        datasets.load("digits", sise=3)
    with pytest.raises(ConfigError, match="folder needs path="):
        datasets.load("folder")


def test_paths_that_lead_nowhere(tmp_path: Path):
    with pytest.raises(DatasetNotFoundError, match=r"there is no file or folder .*pictures"):
        datasets.load(tmp_path / "pictures")
    with pytest.raises(DatasetNotFoundError, match=r"there is no file or folder table\.csv\. Check the path"):
        datasets.load("table.csv")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(DatasetNotFoundError, match=r"expected a folder, a \.zip or a \.csv or \.tsv file, got"):
        datasets.load(tmp_path / "model.bin")


def test_where_data_lies(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KSHOT_DATA", "/data")
    assert datasets.resolve_data_dir("/given") == Path("/given")
    assert datasets.resolve_data_dir() == Path("/data")
    monkeypatch.setenv("KSHOT_DATA", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert datasets.resolve_data_dir() == Path("/xdg/kshot")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert datasets.resolve_data_dir() == Path.home() / ".local" / "share" / "kshot"


@pytest.mark.usefixtures("clean")
def test_a_dataset_of_ones_own(tmp_path: Path):
    @datasets.register("mine", description="mine", files=(RemoteFile("mine.bin"),))
    def load(*, data_dir: Path, seed: int, scale: float = 1.0) -> Dataset:
        assert data_dir == tmp_path
        return Dataset("mine", numbers("a", "b"), numbers("c"), numbers("d"), IdentityTransform())

    dataset = datasets.load("mine", data_dir=tmp_path, seed=4, scale=2.0)
    assert dataset.spec == {"name_or_path": "mine", "seed": 4, "scale": 2.0, "data_dir": str(tmp_path)}
    assert dataset.info["description"] == "mine"
    assert dataset.info["splits"]["train"] == {"classes": 2, "examples": 2}
    assert "mine" in datasets.names()
    with pytest.raises(ConfigError, match="'mine' is registered already"):
        datasets.register("mine", description="another")(lambda: dataset)
    with pytest.raises(DatasetNotFoundError, match=r"mine\.bin could not be downloaded .*at no address"):
        datasets.get("mine", tmp_path)


def test_a_dataset_checks_its_splits():
    with pytest.raises(OverlappingSplitsError, match="train and test"):
        Dataset("d", numbers("a", "b"), numbers("c"), numbers("b"), IdentityTransform())
    with pytest.raises(DataError, match="d has no classes"):
        Dataset("d", numbers(), numbers(), numbers(), IdentityTransform())


def test_importing_is_cheap():
    heavy = ("PIL", "sklearn", "matplotlib", "rich")
    code = f"""
import sys
import kshot.datasets as d
[d.info(name) for name in d.names()]
print([module for module in {heavy} if module in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_that_are_not_the_published_ones_are_named(tmp_path: Path):
    folder = tmp_path / "omniglot"
    folder.mkdir()
    assert datasets.unpublished("omniglot", tmp_path) == {}
    (folder / "images_background.zip").write_bytes(b"something else")
    found = datasets.unpublished("omniglot", tmp_path)
    assert list(found) == [str(folder / "images_background.zip")]
    assert (
        "expected the md5 checksum 68d2efa1b9178cc56df9314c21c6e718, got "
        in found[str(folder / "images_background.zip")]
    )
    assert datasets.unpublished("glyphs", tmp_path) == {}
