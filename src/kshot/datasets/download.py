"""Downloads that can break off: resumed where they stopped, checked by checksum, renamed into place when whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kshot.errors import ChecksumError, DataError, DatasetNotFoundError

Progress = Callable[[str, int, "int | None"], None]
"""Called with a file's name, the bytes that are there and the bytes in all (None: unknown)."""

_CHUNK = 1 << 16
_TIMEOUT = 30.0
_ATTEMPTS = 4


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: what it is called in the dataset's folder.
        urls: where it is published, mirrors after the first.
        sha256, md5: hexadecimal checksums of the published file; at least one where there is a URL.
        size: its bytes, where known: for the progress bar and the check of free space.
        instead: what serves as well, if it lies in the folder: an extracted folder, another archive.
    """

    name: str
    urls: tuple[str, ...] = ()
    sha256: str = ""
    md5: str = ""
    size: int | None = None
    instead: tuple[str, ...] = ()

    def present(self, folder: Path) -> bool:
        """Whether the file, or what serves as well, is in the folder. A local copy is used as it is: an archive that
        was packed again has another checksum and the same content."""
        return any((folder / name).exists() for name in (self.name, *self.instead))

    def unpublished(self, folder: Path) -> str | None:
        """How the file in the folder differs from the published one, in words; None where it does not, where it is not
        there, and where something else serves instead of it."""
        path = folder / self.name
        return _checksum_problem(self, path) if path.is_file() else None


def fetch(
    files: Sequence[RemoteFile], folder: Path, *, progress: Progress | None = None, wait: float = 1.0
) -> list[Path]:
    """Downloads those of the files that are not in the folder, and returns the paths of all."""
    with contextlib.ExitStack() as stack:
        for file in files:
            if not file.present(folder):
                if progress is None:
                    progress = stack.enter_context(reporter())
                download(file, folder, progress=progress, wait=wait)
    return [next(folder / n for n in (f.name, *f.instead) if (folder / n).exists()) for f in files]


def download(file: RemoteFile, folder: Path, *, progress: Progress | None = None, wait: float = 1.0) -> Path:
    """Downloads one file to `folder/file.name`, replacing nothing until it is whole and checked.

    What came of a transfer that broke off lies beside it as `<name>.part`, and is continued by the next call.

    Args:
        file: what to get.
        folder: where to put it; made if it is not there.
        progress: told about every piece.
        wait: seconds before the second attempt at one URL, doubled for each further one.

    Raises:
        DatasetNotFoundError: no URL answered; the message says what each said, and how to do without.
        ChecksumError: the whole file came, twice, and is not the published one.
        DataError: no space on the disk, or no permission to write.
    """
    target = folder / file.name
    with _disk(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for last in (False, True):
        fresh = not part.exists()
        _transfer(file, part, progress, wait)
        problem = _checksum_problem(file, part)
        if problem is None:
            with _disk(folder):
                os.replace(part, target)
            return target
        part.unlink()
        # What was resumed may have begun as another version of the file; what came in one go was wrong as it is.
        if last or fresh:
            break
    raise ChecksumError(
        f"{file.name} is not the published file: {problem}. It was downloaded from {file.urls[0]} and thrown away. Try "
        f"again; if it happens again, get the file yourself and put it at {target}"
    )


def _transfer(file: RemoteFile, part: Path, progress: Progress | None, wait: float) -> None:
    """Fills `part`, from the first URL that manages to."""
    said: list[str] = []
    for url in file.urls:
        if not url.startswith(("http://", "https://")):
            raise DataError(f"expected an http or https address for {file.name}, got {url!r}")
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(wait * 2 ** (attempt - 1))
            try:
                if _receive(file, url, part, progress):
                    return
                reason = f"broke off after {part.stat().st_size:,} bytes"
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"answered {error.code} {error.reason}"
                if error.code not in (408, 429) and error.code < 500:
                    break
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        said.append(f"{url}: {reason}")
    raise DatasetNotFoundError(
        f"{file.name} could not be downloaded ({'; '.join(said) or 'it is published at no address'}). Check the "
        f"network and run the same command again, which goes on where it stopped; or get it yourself, as "
        f"{part.with_suffix('')}"
    )


def _receive(file: RemoteFile, url: str, part: Path, progress: Progress | None) -> bool:
    """One request; appends what comes to `part`. Whether the file is whole."""
    with _disk(part.parent):
        have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "kshot", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()  # nothing beyond what is there: the checksum tells whether that is the file
        return True
    with response:
        if have and (response.status != 206 or not _starts_at(response, have)):
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else file.size
        _check_space(file, part.parent, total, have)
        if progress:
            progress(file.name, have, total)
        with _disk(part.parent), part.open("r+b" if have else "wb") as out:
            out.seek(have)
            for piece in _pieces(response):
                out.write(piece)
                have += len(piece)
                if progress:
                    progress(file.name, have, total)
            out.flush()
            os.fsync(out.fileno())
    return total is None or have >= total


def _pieces(response: IO[bytes]) -> Iterator[bytes]:
    """The body, until it ends or the connection breaks."""
    while True:
        try:
            piece = response.read(_CHUNK)
        except http.client.IncompleteRead as error:
            piece = error.partial
            if piece:
                yield piece
            return
        except (ConnectionError, TimeoutError):
            return
        if not piece:
            return
        yield piece


def _starts_at(response: Any, offset: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")


def _checksum_problem(file: RemoteFile, path: Path) -> str | None:
    for kind, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected:
            found = _digest(path, kind)
            if found != expected.lower():
                return f"expected the {kind} checksum {expected}, got {found} ({path.stat().st_size:,} bytes)"
    return None


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _check_space(file: RemoteFile, folder: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(folder).free
    if total is not None and total - have > free:
        raise DataError(
            f"no space for {file.name} in {folder}: {total - have:,} bytes are to come, {free:,} are free. Make room, "
            "or put the data elsewhere with --data-dir (or KSHOT_DATA)"
        )


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turns what a file system refuses into an error that says what to do."""
    elsewhere = "put the data elsewhere with --data-dir (or KSHOT_DATA)"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk is full: {folder} takes no more. Make room and run the same command again, which goes on "
                f"where it stopped; or {elsewhere}"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataError(f"no permission to write to {folder}. Change its permissions, or {elsewhere}") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise DataError(f"{folder} is not a folder. Remove the file of that name, or {elsewhere}") from error
        raise


@contextlib.contextmanager
def reporter() -> Iterator[Progress]:
    """A progress bar on a terminal; else a plain line at the start, at every tenth, and at the end of a file."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield report


def _plain_lines() -> Progress:
    said: dict[str, int] = {}

    def report(name: str, done: int, total: int | None) -> None:
        # Without a total, a line every 16 MiB.
        step = done * 10 // total if total else done >> 24
        if said.get(name) != step:
            said[name] = step
            of = f" of {total / 1e6:.1f}" if total else ""
            print(f"{name}: {done / 1e6:.1f}{of} MB", file=sys.stderr)

    return report
