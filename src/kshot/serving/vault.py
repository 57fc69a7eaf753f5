"""Examples at rest: each sealed under a key of its own, which is sealed under the server's master key.

The master key is a file outside the database. What a deleted row leaves in the files of a database (free pages, dead
tuples, a write-ahead log, a backup) is ciphertext; and once `rotate` has sealed the keys that still are there under a
new master key and the old one is destroyed, nobody reads it again.

AES-256-GCM, a random nonce of 12 bytes before each ciphertext (NIST SP 800-38D, sec. 8.2.2).
"""

from __future__ import annotations

import base64
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kshot.artifacts.atomic import atomic_file
from kshot.errors import ArtifactError, MissingExtraError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_KEY = 32


@dataclass(frozen=True)
class Sealed:
    """Sealed bytes, and the sealed key that they were sealed with."""

    key: bytes
    content: bytes


class Vault:
    """Seals and opens with one master key.

    Args:
        master: 32 bytes.
    """

    def __init__(self, master: bytes) -> None:
        self._master = _cipher(master)

    @classmethod
    def of_file(cls, path: str | Path) -> Vault:
        """The vault of a master key file, which is made, readable by its owner alone, where there is none.

        Raises:
            ArtifactError: the file holds no key.
            RunError: it cannot be written.
        """
        path = Path(path)
        if not path.exists():
            atomic_file(path, _write_key)
        try:
            master = base64.b64decode(path.read_text(encoding="ascii").strip(), validate=True)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"expected a master key in {path}, got none: {error}") from error
        if len(master) != _KEY:
            raise ArtifactError(f"expected a master key of {_KEY} bytes in {path}, got {len(master)} bytes")
        return cls(master)

    def seal(self, content: bytes, about: str) -> Sealed:
        """Seals bytes.

        Args:
            about: whose they are; the same has to be said to open them, so that rows cannot be exchanged.
        """
        key = secrets.token_bytes(_KEY)
        return Sealed(_seal(self._master, key, about), _seal(_cipher(key), content, about))

    def open(self, sealed: Sealed, about: str) -> bytes:
        """What was sealed.

        Raises:
            ArtifactError: it was changed, is another one's, or was sealed with another master key.
        """
        return _open(_cipher(_open(self._master, sealed.key, about)), sealed.content, about)

    def reseal(self, sealed_key: bytes, about: str, new: Vault) -> bytes:
        """A sealed key, sealed under the master key of another vault."""
        return _seal(new._master, _open(self._master, sealed_key, about), about)


def _write_key(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(_KEY)) + b"\n")


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtraError("cryptography", "serve") from error
    return AESGCM(key)


def _seal(cipher: AESGCM, content: bytes, about: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE)
    return nonce + cipher.encrypt(nonce, content, about.encode())


def _open(cipher: AESGCM, sealed: bytes, about: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
    except (InvalidTag, ValueError) as error:
        raise ArtifactError(
            f"what is stored of {about} cannot be opened: it was changed, or sealed with another master key. Start the "
            "server with the key file that belongs to this database"
        ) from error
