"""What a run ran on: versions, machine, threads, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

import torch
import torch.distributed

import kshot

_PACKAGES = ("torch", "numpy", "safetensors", "scikit-learn", "pillow", "matplotlib")

DECISIVE = ("kshot", "packages.torch", "threads", "processes", "device", "cpu", "instructions")
"""What may change the last bits of a result."""


def environment(device: torch.device) -> dict[str, Any]:
    """A JSON-able description of this process and machine, without the host's name."""
    return {
        "kshot": kshot.__version__,
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": torch.distributed.get_world_size() if _together() else 1,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "commit": _commit(),
        "command": sys.argv,
    }


def instructions() -> str:
    """The widest instructions that torch uses on this CPU, and whether there are any for bf16: "AVX512, bf16"."""
    return torch.backends.cpu.get_cpu_capability() + (", bf16" if has_bf16() else "")


def has_bf16() -> bool:
    """Whether this CPU has instructions for products in bf16; without them these take ten times as long and more."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs of that which may change the last bits of a result, in words."""
    different = []
    for key in DECISIVE:
        old: Any = before
        new: Any = now
        for part in key.split("."):
            old, new = (side.get(part) if isinstance(side, dict) else None for side in (old, new))
        if old is not None and old != new:
            different.append(f"{key.rpartition('.')[2]} {new} instead of {old}")
    return different


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration, UnicodeDecodeError):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the repository that the process runs in, with a + where files differ from it."""
    try:
        run = [
            subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return run[0] + ("+" if run[1] else "")
