"""Files and folders that are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kshot.artifacts import atomic, atomic_file, atomic_folder, remove_leftovers, save_tensors
from kshot.errors import RunError


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_file_is_written_and_replaced(tmp_path):
    path = atomic_file(tmp_path / "deep" / "a.txt", "grüße")
    assert path.read_text("utf-8") == "grüße"
    atomic_file(path, b"bytes")
    assert path.read_bytes() == b"bytes"
    atomic_file(path, lambda temporary: temporary.write_text("by a function"))
    assert path.read_text() == "by a function"
    assert names(path.parent) == ["a.txt"]


def test_what_is_written_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    (tmp_path / "usual folder").mkdir()
    atomic_file(tmp_path / "file", b"")
    save_tensors(tmp_path / "tensors", {"a": torch.zeros(1)})
    with atomic_folder(tmp_path / "folder"):
        pass

    def mode(name):
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    assert mode("file") == mode("tensors") == mode("usual")
    assert mode("folder") == mode("usual folder")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in (["a", "b"], ["b", "c"]):
        with atomic_folder(tmp_path / "x") as folder:
            (folder / "sub").mkdir()
            for name in content:
                (folder / "sub" / name).write_text(name)
        assert names(tmp_path / "x" / "sub") == content
    assert names(tmp_path) == ["x"]


def test_a_folder_is_replaced_where_no_exchange_is_possible(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    test_a_folder_is_replaced_as_a_whole(tmp_path)

    rename, calls = os.rename, []

    def second_rename_fails(a, b):
        calls.append(b)
        if len(calls) == 2:
            raise OSError(errno.EIO, "a bad disk")
        rename(a, b)

    monkeypatch.setattr(os, "rename", second_rename_fails)
    with pytest.raises(RunError, match="the old one is as it was"), atomic_folder(tmp_path / "x") as folder:
        (folder / "new").write_text("")
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x" / "sub") == ["b", "c"]


def test_an_exception_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "x") as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError):
        atomic_file(tmp_path / "y", lambda temporary: 1 / 0)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_disk(tmp_path):
    def write(temporary):
        temporary.write_text("half")
        with open("/dev/full", "wb", buffering=0) as device:  # the kernel's own error
            device.write(b"x")

    path = atomic_file(tmp_path / "x", b"old")
    with pytest.raises(RunError) as info:
        atomic_file(path, write, kept="The checkpoint of step 100 is kept.")
    assert str(info.value) == (
        f"{path} cannot be written, the disk is full (No space left on device). Nothing half-written was left, the old "
        "one is as it was. The checkpoint of step 100 is kept. Make room and do it again."
    )
    assert info.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]
    with (
        pytest.raises(
            RunError, match=r"y cannot be written, the disk is full .* Nothing half-written was left\. Make room"
        ),
        atomic_folder(tmp_path / "y") as folder,
    ):
        write(folder / "file")
    assert names(tmp_path) == ["x"]


def test_a_file_that_outgrows_its_limit(tmp_path):
    """By the system's limit to a file's size, through safetensors as well, whose error is its own."""
    result = run(
        """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from kshot.artifacts import atomic_file, save_tensors
from kshot.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
big, path = {"a": torch.zeros(100_000)}, Path(sys.argv[1]) / "x"
for write in (lambda: save_tensors(path, big), lambda: atomic_file(path, lambda t: save_file(big, t))):
    try:
        write()
    except RunError as error:
        assert "the disk is full (File too large)" in str(error), error
        assert not list(path.parent.iterdir())
    else:
        raise SystemExit("no error")
""",
        tmp_path,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_no_permission():
    # In a folder that anyone may enter: as root nothing is forbidden, so the test becomes nobody for a moment.
    parent = Path(tempfile.mkdtemp())
    try:
        parent.chmod(0o755)
        folder = parent / "locked"
        folder.mkdir()
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(RunError) as info:
                atomic_file(folder / "x", b"")
            with pytest.raises(RunError, match="no permission"), atomic_folder(folder / "y"):
                pass
        finally:
            if root:
                os.seteuid(0)
        assert str(info.value) == (
            f"{folder / 'x'} cannot be written, there is no permission to write to {folder} (Permission denied). "
            "Nothing half-written was left. Change its permissions, or choose another place."
        )
        assert names(folder) == []
    finally:
        shutil.rmtree(parent)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"cannot be written \(.*\)\. Nothing half-written was left\. Choose another place"
    ):
        atomic_file(tmp_path / "file" / "x", b"")


def test_an_error_of_safetensors_with_another_cause_stays(tmp_path):
    with pytest.raises(RuntimeError, match="share memory"):
        same = torch.zeros(3)
        atomic_file(tmp_path / "x", lambda temporary: save_file({"a": same, "b": same}, temporary))
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_process_leaves_the_old_folder_and_a_leftover(tmp_path):
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "old").write_text("")
    result = run(
        """
import os, signal, sys
from pathlib import Path
from kshot.artifacts import atomic_folder
with atomic_folder(Path(sys.argv[1]) / "x") as folder:
    (folder / "new").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
""",
        tmp_path,
    )
    assert result.returncode == -signal.SIGKILL
    assert names(tmp_path / "x") == ["old"]
    leftovers = remove_leftovers(tmp_path)
    assert len(leftovers) == 1
    assert leftovers[0].startswith(".x.")
    assert names(tmp_path) == ["x"]
