"""The files of a folder or of a zip, by one interface; a zip is read in place and never unpacked.

A zip from anywhere may lie: about paths (`../../.bashrc`), about links, about sizes. Every entry is checked before
one is read, though nothing is ever written.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kshot.errors import DataError, DatasetNotFoundError, UnsafeArchiveError

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_FILES = 5_000_000
MAX_MEMBER_BYTES = 1 << 30
MAX_RATIO = 200
RATIO_FROM_BYTES = 1 << 28
"""An archive that unpacks to more than this may not be `MAX_RATIO` times as large unpacked as packed."""

_IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")


class Tree(Protocol):
    """Files below one root."""

    @property
    def path(self) -> Path:
        """The folder, or the zip."""
        ...

    def names(self) -> list[str]:
        """The files' paths below the root with `/` between the parts, sorted; hidden files are left out."""
        ...

    def read(self, name: str) -> bytes:
        """A file's content."""
        ...

    def fingerprint(self) -> list[list[object]]:
        """What changes when the files do (names, sizes, times of modification): JSON-able, and quick to get."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def open_tree(path: str | Path) -> Tree:
    """The files of a folder or of a zip. A context manager.

    Raises:
        DatasetNotFoundError: there is nothing at `path`.
        UnsafeArchiveError: the zip has a path that climbs out, an absolute path, a link, or grows beyond reason.
        DataError: it is neither a folder nor a zip, or the zip is damaged.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return FolderTree(path)
    if not path.exists():
        raise DatasetNotFoundError(f"there is no file or folder {path}: check the path; it is relative to {Path.cwd()}")
    return ZipTree(path)


class FolderTree:
    """The files below a folder; see `Tree`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def names(self) -> list[str]:
        return [name for name, _, _ in self._walk()]

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self._path / name} cannot be read: {error.strerror or error}") from error

    def fingerprint(self) -> list[list[object]]:
        return [[name, size, mtime] for name, size, mtime in self._walk()]

    def _walk(self) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        pending = [("", 0)]
        while pending:
            prefix, depth = pending.pop()
            try:
                entries = list(os.scandir(self._path / prefix))
            except OSError as error:
                raise DataError(f"{self._path / prefix} cannot be read: {error.strerror or error}") from error
            for entry in entries:
                if _hidden(entry.name):
                    continue
                name = prefix + entry.name
                if entry.is_dir():
                    if depth < 32:  # a link to a folder above would go round for ever
                        pending.append((name + "/", depth + 1))
                elif entry.is_file():
                    status = entry.stat()
                    found.append((name, status.st_size, status.st_mtime_ns))
        return sorted(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class ZipTree:
    """The files of a zip; see `Tree`. Opened, and checked, when the first name is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip: zipfile.ZipFile | None = None

    @property
    def path(self) -> Path:
        return self._path

    def _open(self) -> zipfile.ZipFile:
        if self._zip is None:
            try:
                archive = zipfile.ZipFile(self._path)
            except zipfile.BadZipFile as error:
                raise DataError(
                    f"{self._path} is not a zip, or is damaged ({error}). Expected a folder or a .zip; if it was "
                    "downloaded, delete it and get it again"
                ) from error
            except OSError as error:
                raise DataError(f"{self._path} cannot be read: {error.strerror or error}") from error
            try:
                check_members(archive.infolist(), self._path)
            except BaseException:
                archive.close()
                raise
            self._zip = archive
        return self._zip

    def names(self) -> list[str]:
        # A set: an archive may hold a name twice; the later one counts.
        files = {info.filename for info in self._open().infolist() if not info.is_dir()}
        return sorted(name for name in files if not any(_hidden(part) for part in name.split("/")))

    def read(self, name: str) -> bytes:
        try:
            return self._open().read(name)
        except KeyError:
            raise DataError(f"{self._path} holds no file {name}") from None
        except RuntimeError as error:  # encrypted
            raise DataError(f"{name} in {self._path} cannot be read: {error}") from error
        except Exception as error:  # the decompressors raise their own errors, zlib.error and LZMAError among them
            why = str(error).partition(" for file ")[0]  # zipfile's own message names the file once more
            raise DataError(
                f"{name} in {self._path} is damaged ({why}). Get the archive again, or leave unreadable files out with "
                "skip_bad=True (--skip-bad)"
            ) from error

    def fingerprint(self) -> list[list[object]]:
        status = self._path.stat()
        return [[self._path.name, status.st_size, status.st_mtime_ns]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._zip is not None:
            self._zip.close()
            self._zip = None


def check_members(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Checks the entries of a zip before one is read.

    Raises:
        UnsafeArchiveError: naming the first entry that should not be there.
    """
    advice = "Get the archive from a source that you trust"
    for info in members:
        # The name as it was written: zipfile cuts at a NUL and may turn backslashes round.
        for name in {info.filename, info.orig_filename}:
            parts = re.split(r"[/\\]", name)
            if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or "\0" in name:
                raise UnsafeArchiveError(f"{path} holds a path that leads out of it: {name!r}. {advice}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UnsafeArchiveError(
                f"{path} holds a link, where a plain file is expected: {info.filename!r}. {advice}"
            )
        if info.file_size > MAX_MEMBER_BYTES:
            raise UnsafeArchiveError(
                f"{path} holds a file that unpacks to {info.file_size:,} bytes: {info.filename!r}; expected at most "
                f"{MAX_MEMBER_BYTES:,}. {advice}"
            )
    if len(members) > MAX_FILES:
        raise UnsafeArchiveError(f"{path} holds {len(members):,} files, expected at most {MAX_FILES:,}. {advice}")
    unpacked, packed = sum(info.file_size for info in members), max(1, path.stat().st_size)
    if unpacked > RATIO_FROM_BYTES and unpacked > MAX_RATIO * packed:
        raise UnsafeArchiveError(
            f"{path} has {packed:,} bytes and unpacks to {unpacked:,}: more than {MAX_RATIO} times as much looks "
            f"like a decompression bomb. {advice}"
        )


def _hidden(part: str) -> bool:
    return part.startswith(".") or part in _IGNORED
