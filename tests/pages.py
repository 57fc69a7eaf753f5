"""The Python blocks of a Markdown page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def python_blocks(page: str) -> list[str]:
    """The code of every block fenced as `python`, after as many blank lines as put it on its own line of the page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in _BLOCK.finditer(text)]


def run(page: str, blocks: list[str], namespace: dict[str, object]) -> None:
    """Runs blocks of a page one after another in one namespace."""
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
