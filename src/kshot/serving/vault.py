"""Examples at rest: sealed under the server's master key, which is a file outside the database.

What a deleted example leaves in the files of a database (free pages, dead tuples, a write-ahead log, a backup) is
ciphertext (the names of tasks and classes are not sealed); and once all that still is there was sealed under a new
master key and the old one is destroyed (`kshot keys rotate`), nobody reads it again.

AES-256-GCM. A sealed text is the key's first bytes of SHA-256 (4 bytes: which key), a random nonce (12 bytes; NIST SP
800-38D, sec. 8.2.2, allows 2^32 of them a key), and the ciphertext with its tag.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kshot.artifacts.atomic import atomic_file
from kshot.errors import ArtifactError, MissingExtraError, RunError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NAME = 4
"""Bytes at the beginning of what is sealed that say with which key."""

_NONCE, _KEY = 12, 32


def about_state(task: str) -> str:
    """Whose the adapted state of a task is."""
    return f"state {task}"


def about_example(task: str, number: int) -> str:
    """Whose an example is."""
    return f"example {task}/{number}"


def about_feedback(task: str) -> str:
    """Whose a query is whose true label came later."""
    return f"feedback {task}"


class Vault:
    """Seals with one master key, and opens with any of several.

    Args:
        masters: of 32 bytes each; the first one seals.

    Attributes:
        newest: the beginning of what it seals.
    """

    def __init__(self, masters: Sequence[bytes]) -> None:
        self._ciphers = {hashlib.sha256(master).digest()[:NAME]: _cipher(master) for master in masters}
        self.newest = next(iter(self._ciphers))

    @classmethod
    def of_file(cls, path: str | Path) -> Vault:
        """The vault of a file of master keys, a line each, the newest first; it is made, readable by its owner alone,
        where there is none.

        Raises:
            ArtifactError: the file holds no key.
            RunError: it cannot be written.
        """
        path = Path(path)
        if not path.exists():
            _make_first(path)
        return cls(read_keys(path))

    def seal(self, content: bytes, about: str) -> bytes:
        """Seals bytes.

        Args:
            about: whose they are; the same has to be said to open them, so that rows cannot be exchanged.
        """
        nonce = secrets.token_bytes(_NONCE)
        return self.newest + nonce + self._ciphers[self.newest].encrypt(nonce, content, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """What was sealed.

        Raises:
            ArtifactError: it was changed, is another one's, or was sealed with another master key.
        """
        from cryptography.exceptions import InvalidTag

        name, nonce, content = sealed[:NAME], sealed[NAME : NAME + _NONCE], sealed[NAME + _NONCE :]
        try:
            return self._ciphers[name].decrypt(nonce, content, about.encode())
        except (KeyError, InvalidTag, ValueError) as error:
            raise ArtifactError(
                f"what is stored of {about} cannot be opened: it was changed, or sealed with another master key. Start "
                "the server with the key file that belongs to this database"
            ) from error


def new_key() -> bytes:
    """A master key."""
    return secrets.token_bytes(_KEY)


def read_keys(path: Path) -> list[bytes]:
    """The master keys of a file, the newest first.

    Raises:
        ArtifactError: it holds none.
    """
    try:
        keys = [base64.b64decode(line, validate=True) for line in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"expected master keys in {path}, a line each, got none: {error}") from error
    if not keys or any(len(key) != _KEY for key in keys):
        sizes = ", ".join(str(len(key)) for key in keys) or "none"
        raise ArtifactError(f"expected master keys of {_KEY} bytes in {path}, a line each, got {sizes}")
    return keys


def write_keys(path: Path, keys: Sequence[bytes]) -> None:
    """Replaces the master keys of a file, which its owner alone may read."""
    text = b"".join(base64.b64encode(key) + b"\n" for key in keys)

    def write(new: Path) -> None:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text)

    atomic_file(path, write)


@contextlib.contextmanager
def in_use(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Holds a key file while what it seals is served, or while it is replaced, by a lock beside it: the file itself is
    another one once it was replaced.

    Args:
        alone: nobody else may hold it.

    Raises:
        RunError: somebody else does, as far as this machine tells.
    """
    if os.name == "nt":  # which has no such locks
        yield
        return
    import fcntl

    try:
        file = path.with_name(f".{path.name}.lock").open("wb")
    except OSError:  # a folder that may only be read
        yield
        return
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"a server runs with the master key in {path}: stop it first, or rotate in two steps (kshot keys "
                "rotate --begin), with a restart between them"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _make_first(path: Path) -> None:
    """Writes a first master key, unless another process did so meanwhile."""
    own = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    write_keys(own, [new_key()])
    try:
        os.link(own, path)
    except FileExistsError:
        pass  # all servers of a database seal with one key
    except OSError:  # a file system without hard links
        write_keys(path, read_keys(own))
    finally:
        own.unlink(missing_ok=True)


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtraError("cryptography", "serve") from error
    return AESGCM(key)
