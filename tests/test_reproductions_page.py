"""docs/reproductions.md says what the kept results say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_page_is_that_of_the_results() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "reproductions_page.py"))["page"]()
    assert (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8") == page, (
        "python tools/reproductions_page.py writes the page anew"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "reproductions").glob("*.cpu.json")), ids=lambda path: path.stem)
def test_a_cpu_profile_was_trained_within_ten_minutes(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["training"].get("before", 0) + result["training"]["seconds"] <= 600
    assert (path.parent / result["log"]).is_file()
    assert result["environment"]["commit"]
