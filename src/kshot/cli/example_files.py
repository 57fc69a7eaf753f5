"""Files of a task that nobody has trained on: what a user's own folder would look like, for the quickstart."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kshot import randomness

if TYPE_CHECKING:
    from kshot.datasets.pool import Pool

SCALE = 4


def write_task(pool: Pool, folder: Path, *, way: int = 5, shot: int = 1, query: int = 3, seed: int = 0) -> list[Path]:
    """Writes a support set, `folder/support/<class>/N.png`, and files to label, `folder/new/<class>-N.png`.

    Ink is dark on white paper, four times the size that the learner sees, as a scan might be.

    Args:
        pool: bright ink on dark, uint8 `[N, 1, H, W]`: classes that the learner has not seen.
        folder: where; made if it is not there.
        way, shot, query: classes, and files of each for the support and to label.
        seed: which classes and examples.

    Returns:
        The files to label.
    """
    from PIL import Image

    key = randomness.bits(seed, randomness.stream("quickstart/task"))
    # One of each kin: the turned copies of a character may not meet in a task.
    kin, first = np.unique(pool.kin.numpy(), return_index=True)
    chosen = first[randomness.distinct(len(kin), way, key)]
    files = []
    for c in chosen.tolist():
        name = class_name(pool.names[c])
        images = pool.images(c)
        for number, row in enumerate(randomness.distinct(len(images), shot + query, key, c).tolist()):
            support = number < shot
            path = folder / "support" / name / f"{number}.png" if support else folder / "new" / f"{name}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ink = images[row, 0].numpy()
            Image.fromarray(np.kron(255 - ink, np.ones((SCALE, SCALE), np.uint8))).save(path)
            if not support:
                files.append(path)
    return sorted(files)


def class_name(name: str) -> str:
    """A class's name as a folder: a letter by its Unicode name, in plain characters.

    >>> class_name("armenian/Ա")
    'armenian-capital-ayb'
    """
    last = name.rpartition("/")[2]
    if len(last) == 1:
        name = unicodedata.name(last, name).lower().replace(" letter ", " ")
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name)
