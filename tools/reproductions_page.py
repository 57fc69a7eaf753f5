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
    cpu, full = (tables.entries(ROOT / "reproductions", profile) for profile in ("cpu", "full"))
    run = [(spec, result) for spec, result in full if result is not None]
    left = sum("full" in spec.profiles for spec, _ in full) - len(run)
    parts = [INTRODUCTION, f"## Ten minutes on two cores\n\n{tables.markdown(cpu)}\n", "## The papers' own budgets\n\n"]
    if run:
        parts.append(f"{tables.markdown(run, 'full')}\n")
    if left:
        parts.append(f"{left} are not run: most take a GPU, and all `kshot reproduce NAME --profile full`.\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "reproductions.md").write_text(page(), encoding="utf-8")
