"""Files and folders that are there as a whole or not at all, whatever happens while they are written.

What is new is written beside its place under a temporary name, flushed to the disk, and renamed into place. A process
that is killed leaves the old content, and at worst a temporary `.name.*.tmp` that `remove_leftovers` takes away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from kshot.errors import RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def atomic_file(path: str | Path, data: bytes | str | Callable[[Path], object], *, kept: str = "") -> Path:
    """Writes a file as a whole, in place of one that may be there. Missing folders above it are made.

    Args:
        path: the file.
        data: its content (a `str` as UTF-8), or a function that writes it to the path that it is given.
        kept: a sentence for the error message, what is safe if this fails ("The checkpoint of step 100 is kept.").

    Raises:
        RunError: the disk is full, or there is no permission. Nothing half-written is left, an earlier file is as it
            was.
    """
    path = Path(path)
    with _explained(path, kept), _temporary(path) as temporary:
        if callable(data):
            data(temporary)
        else:
            with open(temporary, "xb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    return path


def check_place(path: str | Path) -> None:
    """Whether a file can be written at `path`, before the work is done that it is to hold.

    Raises:
        RunError: the disk is full, or there is no permission.
    """
    path = Path(path)
    with _explained(path, ""), _temporary(path) as temporary:
        temporary.write_bytes(b"")


@contextlib.contextmanager
def atomic_folder(path: str | Path, *, kept: str = "") -> Iterator[Path]:
    """A temporary folder to write into, which becomes `path` when the block ends without an exception.

    A folder that is there is replaced as a whole, in one step where the system can exchange two folders (Linux).

    Args:
        path: the folder.
        kept: as for `atomic_file`.

    Raises:
        RunError: the disk is full, or there is no permission, in the block or here. Nothing half-written is left, an
            earlier folder is untouched.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "learner"
    >>> with atomic_folder(place) as folder:
    ...     _ = (folder / "config.json").write_text("{}")
    >>> [file.name for file in place.iterdir()]
    ['config.json']
    """
    path = Path(path)
    with _explained(path, kept), _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        for folder, _, files in os.walk(temporary, topdown=False):
            for name in files:
                _flush(Path(folder, name))
            _flush(Path(folder))
        _put(temporary, path)
        _flush(path.parent)


def remove_leftovers(folder: str | Path) -> list[str]:
    """Removes what killed processes left half-written in `folder`, and returns its names.

    Only for a folder that no other process is writing to.
    """
    names = []
    for leftover in Path(folder).glob(".*.tmp"):
        _remove(leftover)
        names.append(leftover.name)
    return sorted(names)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that is free, and free again after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not from `tempfile`, whose files only their owner may read: what is made here gets the usual permissions.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
    finally:
        _remove(temporary)


def _put(new: Path, path: Path) -> None:
    """Renames a folder into place, also where there is one already."""
    if not os.path.lexists(path):
        os.rename(new, path)
    elif not _exchange(new, path):
        # Two steps; whoever is killed between them finds the old folder under its temporary name.
        old = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        os.rename(path, old)
        try:
            os.rename(new, path)
        except BaseException:
            os.rename(old, path)
            raise
        _remove(old)


def _exchange(a: Path, b: Path) -> bool:
    """Exchanges the names of two paths in one step. Whether the system can."""
    import ctypes

    at_cwd, rename_exchange = -100, 2
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or a C library from before 2018
        return False
    return bool(rename(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot; no reason to lose the file
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(path: Path, kept: str) -> Iterator[None]:
    """Turns what the system says when a file cannot be written into a `RunError` that says what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except RunError:
        raise
    except (OSError, SafetensorError) as error:
        number = _error_number(error)
        if number is None:
            raise
        reason = os.strerror(number)
        safe = "Nothing half-written was left" + (", the old one is as it was." if os.path.lexists(path) else ".")
        safe = f"{safe} {kept}".strip()
        if number in _FULL:
            message = f"{path} cannot be written, the disk is full ({reason}). {safe} Make room and do it again."
        elif number in _FORBIDDEN:
            message = (
                f"{path} cannot be written, there is no permission to write to {path.parent} ({reason}). {safe} "
                "Change its permissions, or choose another place."
            )
        else:
            message = (
                f"{path} cannot be written ({reason}). {safe} Choose another place, or put this right and do it again."
            )
        explained = RunError(message)
        explained.errno = number
        raise explained from error


def _error_number(error: Exception) -> int | None:
    """The system's error number; safetensors has it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
