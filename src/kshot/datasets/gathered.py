"""Folders of images that were gathered from a server (`kshot data from-server`): its tenants', who may have them
erased.

Nothing of them is kept elsewhere: not in the cache of decoded images, and not by replaying an older folder, which would
bring back what the server has erased since.
"""

from __future__ import annotations

from pathlib import Path

MANIFEST = "gathered.json"
"""In such a folder: what was gathered, and what was left out."""


def is_gathered(path: object) -> bool:
    """Whether a folder was gathered from a server, or is a part of one that was."""
    if not isinstance(path, (str, Path)):
        return False
    here = Path(path).expanduser().absolute()
    return any((folder / MANIFEST).is_file() for folder in (here, here.parent, here.parent.parent))
