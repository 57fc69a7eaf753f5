from __future__ import annotations

import stat
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.datasets import archive
from kshot.datasets.archive import open_tree
from kshot.errors import DataError, DatasetNotFoundError, UnsafeArchiveError


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_a_folder_and_a_zip_of_it_are_alike(tmp_path: Path):
    members = {"b/2.txt": b"two", "a/1.txt": b"one", "a/c/3.txt": b"three"}
    for name, content in {**members, ".hidden/x": b"", "a/.DS_Store": b"", "__MACOSX/a/1.txt": b""}.items():
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    write_zip(tmp_path / "z.zip", {**members, ".hidden/x": b"", "a/.DS_Store": b"", "__MACOSX/a/1.txt": b""})
    for path in (tmp_path / "folder", tmp_path / "z.zip"):
        with open_tree(path) as tree:
            assert tree.names() == ["a/1.txt", "a/c/3.txt", "b/2.txt"]
            assert {name: tree.read(name) for name in tree.names()} == members
            with pytest.raises(DataError, match=r"none\.txt"):
                tree.read("none.txt")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "a/../../evil.txt",
        "/etc/passwd",
        "\\evil.txt",
        "a\\..\\..\\evil.txt",
        "C:/evil.txt",
        "..",
        "C:evil",
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str):
    path = write_zip(tmp_path / "z.zip", {"fine.txt": b"", name: b"x"})
    with pytest.raises(UnsafeArchiveError, match="holds a path that leads out of it"), open_tree(path) as tree:
        tree.names()


@given(parts=st.lists(st.sampled_from(["a", "..", ".", "b c", "", "é", "C:", "..."]), min_size=1, max_size=5))
def test_every_accepted_name_stays_inside(parts: list[str]):
    name = "/".join(parts) or "x"
    info = zipfile.ZipInfo(name)
    try:
        archive.check_members([info], Path(__file__))
    except UnsafeArchiveError:
        assert ".." in parts or name.startswith(("/", "C:"))
    else:
        root = Path("/root/folder")
        assert (root / name).resolve().is_relative_to(root)


def test_links_are_refused(tmp_path: Path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(UnsafeArchiveError, match="holds a link, where a plain file is expected: 'link'"):
        open_tree(tmp_path / "z.zip").names()


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_zip(tmp_path / "z.zip", {"zeros": bytes(1_000_000)})
    assert open_tree(path).names() == ["zeros"]
    monkeypatch.setattr(archive, "RATIO_FROM_BYTES", 1000)
    with pytest.raises(UnsafeArchiveError, match="unpacks to 1,000,000: more than 200 times as much looks like"):
        open_tree(path).names()
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(UnsafeArchiveError, match="unpacks to 1,000,000 bytes: 'zeros'; expected at most 1,000"):
        open_tree(path).names()
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1 << 30)
    monkeypatch.setattr(archive, "MAX_FILES", 0)
    with pytest.raises(UnsafeArchiveError, match="holds 1 files, expected at most 0"):
        open_tree(path).names()


def test_damaged_zips_are_named(tmp_path: Path):
    path = tmp_path / "z.zip"
    path.write_bytes(b"no zip at all")
    with pytest.raises(DataError, match=r"z\.zip is not a zip, or is damaged"):
        open_tree(path).names()
    write_zip(path, {"a.txt": b"content" * 100}, zipfile.ZIP_STORED)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"contentcontent", b"contentCONTENT", 1))
    with (
        open_tree(path) as tree,
        pytest.raises(DataError, match=r"a\.txt in .*z\.zip is damaged \(Bad CRC-32\)\. Get the"),
    ):
        tree.read("a.txt")
    with pytest.raises(DatasetNotFoundError, match="there is no file or folder"):
        open_tree(tmp_path / "none.zip")


def test_a_folder_that_links_to_itself_ends(tmp_path: Path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.txt").write_text("x")
    (tmp_path / "f" / "round").symlink_to(tmp_path / "f")
    assert "a.txt" in open_tree(tmp_path / "f").names()


def test_duplicate_names_in_a_zip_are_one_file(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
            file.writestr("a.txt", "first")
            file.writestr("a.txt", "second")
    with open_tree(tmp_path / "z.zip") as tree:
        assert tree.names() == ["a.txt"]
        assert tree.read("a.txt") == b"second"
