"""Commands in processes of their own, and tiny images."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Kshot = Callable[..., Any]


def real(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user would, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "kshot", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def write_images(folder: Path, classes: Sequence[str], each: int, *, size: int = 20, seed: int = 0) -> Path:
    """A subfolder per class: each class a pattern of its own, each image that pattern with noise."""
    for c, name in enumerate(classes):
        pattern = np.random.default_rng(1000 + c).integers(0, 2, (5, 5)) * 200
        rng = np.random.default_rng([seed, c])
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = np.kron(pattern, np.ones((size // 5, size // 5))) + rng.integers(0, 40, (size, size))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder
