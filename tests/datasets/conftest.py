"""Folders of small pictures, and a cache for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import MakeFolder, png


@pytest.fixture(autouse=True)
def _cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A cache of each test's own, unless it reads the real data."""
    if "real_data" not in request.fixturenames:
        monkeypatch.setenv("KSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a folder of `{class: number of images}` and returns its path."""

    def make(classes: dict[str, int], name: str = "pictures") -> Path:
        root = tmp_path / name
        for c, (label, count) in enumerate(classes.items()):
            folder = root / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(png(100 * c + i))
        return root

    return make
