from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pictures import MakeFolder, png
from safetensors.torch import save_file

from kshot.datasets import ImageTransform, cache, load
from kshot.datasets import images as images_module
from kshot.datasets.archive import open_tree
from kshot.datasets.images import decode_tree
from kshot.datasets.layout import ordered_images


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "c"))
    return tmp_path / "c" / "pools"


def test_what_was_saved_is_loaded(where: Path):
    x = torch.arange(6, dtype=torch.uint8).view(2, 3)
    assert cache.load("k") is None
    assert cache.save("k", {"x": x, "empty": torch.zeros(0)}, {"names": ["a", "é"]})
    tensors, description = cache.load("k") or ({}, {})
    assert torch.equal(tensors["x"], x)
    assert description == {"names": ["a", "é"]}
    assert [file.name for file in where.iterdir()] == ["k.safetensors"]


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KSHOT_CACHE", "/somewhere")
    assert cache.cache_dir() == Path("/somewhere")
    monkeypatch.setenv("KSHOT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.cache_dir() == Path("/xdg/kshot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_dir() == Path.home() / ".cache" / "kshot"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "foreign"])
def test_a_damaged_cache_is_thrown_away(where: Path, damage: str):
    cache.save("k", {"x": torch.arange(100, dtype=torch.uint8)}, {})
    path = where / "k.safetensors"
    raw = path.read_bytes()
    if damage == "foreign":
        save_file({"x": torch.zeros(3)}, path)
    else:
        flipped = raw[:-1] + bytes([raw[-1] ^ 1])
        path.write_bytes({"flip": flipped, "cut": raw[:-5], "empty": b"", "text": b"hello"}[damage])
    assert cache.load("k") is None
    assert not path.exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "file"))
    assert not cache.save("k", {"x": torch.zeros(1)}, {})
    assert cache.load("k") is None


def test_a_full_disk_leaves_nothing_behind(where: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert not cache.save("k", {"x": torch.zeros(1)}, {})
    assert list(where.iterdir()) == []


def test_images_are_decoded_once(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    path = make_folder({"a": 3, "b": 2})
    decoded: list[str] = []
    real = images_module.decode

    def counting(files, transform):
        files = list(files)
        decoded.extend(name for name, _ in files)
        return real(files, transform)

    monkeypatch.setattr(images_module, "decode", counting)

    def read(transform: ImageTransform) -> torch.Tensor:
        with open_tree(path) as tree:
            return decode_tree(tree, transform, select=ordered_images, label="t").x

    first = read(ImageTransform((8, 8)))
    assert len(decoded) == 5
    assert torch.equal(read(ImageTransform((8, 8))), first)
    read(ImageTransform((8, 8), mean=(0.3,)))  # normalising does not change what is stored
    assert len(decoded) == 5
    read(ImageTransform((9, 9)))
    assert len(decoded) == 10
    (path / "a" / "0.png").write_bytes(png(77, (20, 20)))
    assert not torch.equal(read(ImageTransform((8, 8))), first)


def test_a_damaged_cache_of_a_folder_is_made_again(make_folder: MakeFolder, where: Path):
    path = make_folder(dict.fromkeys("abcdef", 2))
    first = load(path)
    (file,) = where.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    again = load(path)
    assert torch.equal(again.train.x, first.train.x)
    assert len(list(where.iterdir())) == 1
