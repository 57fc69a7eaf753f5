"""Named tensors in one safetensors file, written as a whole and read with errors that say what is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kshot.artifacts.atomic import atomic_file
from kshot.errors import ArtifactError


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, kept: str = ""
) -> Path:
    """Writes tensors of any device, atomically. NaNs and dtypes stay as they are; shared memory is stored twice.

    Args:
        path: the file.
        tensors: by name.
        metadata: strings for the file's header.
        kept: as for `kshot.artifacts.atomic.atomic_file`.

    Raises:
        RunError: the disk is full, or there is no permission.
        ArtifactError: something is not a dense tensor of a dtype that safetensors stores.
    """
    from safetensors.torch import save

    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise ArtifactError(f"expected dense tensors to save, got {name!r}: {_describe(tensor)}")
    # A clone each: safetensors refuses tensors that share memory, as tied weights do.
    plain = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    try:
        # No metadata rather than an empty one, which safetensors 0.8 writes as broken JSON where there are no tensors.
        content = save(plain, metadata=dict(metadata) if metadata else None)
    except KeyError as error:
        raise ArtifactError(f"{path} cannot be written: safetensors stores no tensors of dtype {error}") from error
    return atomic_file(path, content, kept=kept)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and the strings of its header.

    Raises:
        ArtifactError: there is no such file, it cannot be read, is truncated, or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"there is no file {path}: check the path; it is relative to {Path.cwd()}") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:
        if _truncated(content):
            raise ArtifactError(
                f"{path} is truncated: it ends after {len(content):,} bytes, before the tensors that its header names. "
                "Copy or save it again"
            ) from error
        raise ArtifactError(
            f"{path} is not a safetensors file, or is damaged: expected one that kshot saved, got {len(content):,} "
            f"bytes that safetensors cannot read ({error})"
        ) from error
    # Clones, because memory inside `content` is not aligned as torch aligns its own, and sums then round differently.
    return {name: tensor.clone() for name, tensor in tensors.items()}, metadata


def _truncated(content: bytes) -> bool:
    """Whether the file begins like a safetensors file and is too short: in its header, or in the tensors after it."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    if len(content) < 8 or not header.startswith(b"{"):
        return False
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return len(content) < 8 + length + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError):
        return len(header) < length < 100_000_000  # the limit that safetensors sets to a header


def hash_tensors(start: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of a text and of every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(start.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        plain = tensor.detach().to("cpu").contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _describe(value: object) -> str:
    return f"a tensor of layout {value.layout}" if isinstance(value, Tensor) else type(value).__name__
