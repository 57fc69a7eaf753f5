"""docs/reproductions.md says what the kept results say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_is_that_of_the_results() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "reproductions_page.py"))["page"]()
    assert (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8") == page, (
        "python tools/reproductions_page.py writes the page anew"
    )
