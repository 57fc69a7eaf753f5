from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kshot.datasets import download as module
from kshot.datasets.download import RemoteFile, download, fetch, reporter
from kshot.errors import ChecksumError, DataError, DatasetNotFoundError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """A loopback server of one file that can break off, ignore ranges or answer with an error."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.break_after: list[int] = []  # bytes to send before the connection breaks, one entry a request
        self.ranges = True
        self.status: dict[str, int] = {}
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.requests.append((self.path, asked))
                if self.path in outer.status:
                    self.send_error(outer.status[self.path])
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.ranges else 0
                if start >= len(outer.content):
                    self.send_error(416)
                    return
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                if start:
                    total = len(outer.content)
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if outer.break_after:
                    body = body[: outer.break_after.pop(0)]
                    self.close_connection = True
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def file(self, *paths: str, **options: object) -> RemoteFile:
        port = self.http.server_address[1]
        urls = tuple(f"http://127.0.0.1:{port}{path}" for path in paths or ("/data.zip",))
        return RemoteFile("data.zip", urls, **{"sha256": SHA256, **options})

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_a_file_comes_whole(server: Server, tmp_path: Path):
    seen: list[tuple[str, int, int | None]] = []
    path = download(server.file(md5=MD5), tmp_path / "new" / "folder", progress=lambda *a: seen.append(a), wait=0)
    assert path == tmp_path / "new" / "folder" / "data.zip"
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["data.zip"]
    assert seen[0] == ("data.zip", 0, len(CONTENT))
    assert seen[-1] == ("data.zip", len(CONTENT), len(CONTENT))


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path):
    server.break_after = [100_000, 50_000]
    path = download(server.file(), tmp_path, wait=0)
    assert path.read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_call_goes_on_where_the_last_stopped(server: Server, tmp_path: Path):
    server.break_after = [1000] * 10
    with pytest.raises(DatasetNotFoundError, match="broke off after 4,000 bytes.*goes on where it stopped"):
        download(server.file(), tmp_path, wait=0)
    assert os.listdir(tmp_path) == ["data.zip.part"]
    server.break_after = []
    assert download(server.file(), tmp_path, wait=0).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=4000-"


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path):
    server.ranges = False
    server.break_after = [100_000]
    assert download(server.file(), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_part_of_another_version_is_thrown_away(server: Server, tmp_path: Path):
    (tmp_path / "data.zip.part").write_bytes(b"x" * 1000)
    assert download(server.file(), tmp_path, wait=0).read_bytes() == CONTENT
    (tmp_path / "data.zip.part").write_bytes(b"x" * (len(CONTENT) + 5))
    assert download(server.file(), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_part_that_is_whole_is_only_checked(server: Server, tmp_path: Path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT)
    assert download(server.file(), tmp_path, wait=0).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_another_content_is_refused(server: Server, tmp_path: Path, kind: str):
    server.content = CONTENT[:-1] + b"!"
    expected = {"sha256": SHA256, "md5": MD5}[kind]
    message = (
        f"data.zip is not the published file: expected the {kind} checksum {expected}, got .*thrown away. Try again"
    )
    with pytest.raises(ChecksumError, match=message):
        download(server.file(**{"sha256": "", kind: expected}), tmp_path, wait=0)
    assert os.listdir(tmp_path) == []


def test_a_mirror_stands_in(server: Server, tmp_path: Path):
    server.status = {"/gone.zip": 404, "/down.zip": 503}
    path = download(server.file("/gone.zip", "/down.zip", "/data.zip"), tmp_path, wait=0)
    assert path.read_bytes() == CONTENT
    asked = [path for path, _ in server.requests]
    assert asked == [
        "/gone.zip",
        *["/down.zip"] * 4,
        "/data.zip",
    ]  # what is gone stays gone; what is down may come back


def test_no_mirror_answers(server: Server, tmp_path: Path):
    server.status = {"/gone.zip": 404}
    with pytest.raises(DatasetNotFoundError) as error:
        download(server.file("/gone.zip"), tmp_path, wait=0)
    assert "/gone.zip: answered 404 Not Found" in str(error.value)
    assert str(tmp_path / "data.zip") in str(error.value)
    closed = server.file()
    server.http.server_close()
    with pytest.raises(DatasetNotFoundError, match="Check the network and run the same command again"):
        download(closed, tmp_path, wait=0)


def test_only_http(tmp_path: Path):
    with pytest.raises(DataError, match="expected an http or https address"):
        download(RemoteFile("passwd", ("file:///etc/passwd",)), tmp_path)


def test_what_is_there_is_not_downloaded(server: Server, tmp_path: Path):
    (tmp_path / "data.zip").write_bytes(b"packed again")
    assert fetch([server.file()], tmp_path) == [tmp_path / "data.zip"]
    (tmp_path / "data.zip").unlink()
    (tmp_path / "extracted").mkdir()
    assert fetch([server.file(instead=("extracted",))], tmp_path) == [tmp_path / "extracted"]
    assert server.requests == []
    assert fetch([server.file()], tmp_path, wait=0) == [tmp_path / "data.zip"]


def test_too_little_space_is_said_before_the_transfer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(
        DataError, match=r"no space for data\.zip in .*: 512,000 bytes are to come, 1 are free\. Make room"
    ):
        download(server.file(), tmp_path, wait=0)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full: .* takes no more. Make room and run the same command again"),
        (errno.EACCES, "no permission to write to .*--data-dir"),
        (errno.EROFS, "no permission to write to"),
    ],
)
def test_a_disk_that_refuses(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
):
    real = Path.open

    class Full(io.BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(number, os.strerror(number))

    def refuse(self: Path, mode: str = "r", *rest: object, **options: object):
        return Full() if mode in ("wb", "r+b") else real(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=message):
        download(server.file(), tmp_path, wait=0)


def test_a_file_in_the_way_of_the_folder(server: Server, tmp_path: Path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="is not a folder. Remove the file of that name"):
        download(server.file(), tmp_path / "data" / "omniglot", wait=0)


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    with reporter() as report:
        for done in range(0, 10_000_001, 100_000):
            report("data.zip", done, 10_000_000)
        report("unknown.zip", 5_000_000, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "data.zip: 0.0 of 10.0 MB"
    assert lines[-2:] == ["data.zip: 10.0 of 10.0 MB", "unknown.zip: 5.0 MB"]
    assert len(lines) == 12


def test_a_bar_on_a_terminal(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch([server.file()], tmp_path, wait=0)
    assert "data.zip" in terminal.getvalue()
    assert "512.0" in terminal.getvalue()


def test_published_checksums_have_their_length():
    from kshot.datasets import registry

    for name in ("omniglot", "cifar_fs"):
        for file in registry.entry(name).files:
            assert len(file.sha256) in (0, 64)
            assert len(file.md5) in (0, 32)
            assert file.sha256 or file.md5
            assert all(url.startswith("https://") for url in file.urls)
    assert module.RemoteFile("a").urls == ()
