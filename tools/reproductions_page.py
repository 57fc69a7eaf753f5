"""Writes docs/reproductions.md from the results in reproductions/: `python tools/reproductions_page.py`."""

from __future__ import annotations

from pathlib import Path

from kshot.evaluation import reproduction_table as tables

ROOT = Path(__file__).parent.parent

INTRODUCTION = """\
# Published and ours

Every number below comes from `kshot reproduce NAME`, from a configuration in `src/kshot/reproductions`, and is kept in
`reproductions/` with the digest of that configuration, the commit, the machine and the log of its training.
[How it is run](howto/reproduce.md), and what counts as reached. Accuracies, gains and wrong bits are in percent with
the 95 % interval over tasks; errors of regression are squared ones. *Transductive*: a prediction depends on the other
queries.

"""


def page() -> str:
    """The page as the results have it now."""
    parts = [INTRODUCTION]
    for profile, title in (("cpu", "Ten minutes on two cores"), ("full", "The papers' own budgets")):
        found = tables.entries(ROOT / "reproductions", profile)
        if profile == "full":
            found = [(spec, result) for spec, result in found if profile in spec.profiles]
        parts.append(f"## {title}\n\n{tables.markdown(found, profile)}\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "reproductions.md").write_text(page(), encoding="utf-8")
