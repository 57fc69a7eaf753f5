"""glibc's allocator, told to keep what it has.

By default glibc maps every buffer of some MiB afresh and gives it back to the kernel when it is freed; a training step
that allocates the same activations over and over then spends its time in page faults (up to 1.8x of a step was measured
on a CPU). Raising both thresholds keeps the memory in the process. Only a process that kshot owns (the command line)
does so.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
THRESHOLD = 2**31 - 1
"""Bytes; mallopt takes an int."""

_raised = False


def is_glibc() -> bool:
    """Whether the C library is glibc, the one that has these thresholds (musl and macOS have not)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


def raise_thresholds() -> bool:
    """Raises glibc's mmap and trim thresholds. Does nothing, and returns false, on another C library.

    A user's own MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_ in the environment is left as it is.
    """
    global _raised
    if not is_glibc() or any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("MMAP", "TRIM")):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # glibc refuses an mmap threshold above half of its largest heap: 32 MiB on 64 bits.
    mmap = next((size for size in (THRESHOLD, 32 * 2**20) if mallopt(M_MMAP_THRESHOLD, size)), 0)
    _raised = bool(mmap) and bool(mallopt(M_TRIM_THRESHOLD, THRESHOLD))
    return _raised


def describe() -> str:
    """What the allocator of this process does, for `kshot doctor`."""
    if not is_glibc():
        return "not glibc: nothing to tune"
    if _raised:
        return "glibc, mmap and trim thresholds raised (large buffers are kept for reuse)"
    if any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("MMAP", "TRIM")):
        return "glibc, thresholds as your environment sets them (MALLOC_..._THRESHOLD_)"
    return "glibc, thresholds at their defaults (the kshot command raises them where it starts the process)"
