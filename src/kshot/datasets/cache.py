"""Decoded pools on disk, so that a folder of images is decoded once.

A cache is one safetensors file: the tensors, and a JSON description in its header. Its name is a digest of what it was
made from, so nothing is ever invalidated. It is a convenience: where it cannot be written it is done without, where it
is damaged it is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VERSION = 1
"""Part of every key: raised when what is decoded from the same files changes."""


def cache_dir() -> Path:
    """$KSHOT_CACHE, else kshot's folder in the user's cache directory."""
    chosen = os.environ.get("KSHOT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "kshot"


def cache_key(name: str, *parts: object) -> str:
    """A file name: `name` and a digest of JSON-able `parts`."""
    text = json.dumps([VERSION, *parts], sort_keys=True)
    clean = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:40]
    return f"{clean}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def load(key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the description of `key`; None where there are none, or they are damaged."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    path = _path(key)
    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        description = json.loads(header["description"])
        tensors = load_file(path)
        if header["digest"] != _digest(tensors, header["description"]):
            raise ValueError("the content is not what was written")
        return tensors, description
    except Exception:  # a cache may hold anything, after a crash of the machine; it is then made again
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def save(key: str, tensors: dict[str, Tensor], description: dict[str, Any]) -> bool:
    """Writes a cache, atomically. Whether it could be written."""
    from safetensors.torch import save_file

    path = _path(key)
    text = json.dumps(description)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        os.close(handle)
        save_file(tensors, temporary, metadata={"description": text, "digest": _digest(tensors, text)})
        os.replace(temporary, path)
        return True
    except Exception:  # a full or a read-only disk, which safetensors reports as an error of its own
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False


def _path(key: str) -> Path:
    return cache_dir() / "pools" / f"{key}.safetensors"


def _digest(tensors: dict[str, Tensor], description: str) -> str:
    digest = hashlib.blake2b(description.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
