"""Writes the tables of docs/performance.md from the kept results of `kshot bench`: `python tools/performance_page.py`.

The prose is the page's own; what stands between `<!-- name -->` and `<!-- end -->` is written here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kshot.bench import report
from kshot.bench.workloads import workloads

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"


def page() -> str:
    """The page with the tables as the results have them now."""
    results = report.load(RESULTS / "bench", report.names(workloads()))
    precision = [RESULTS / f"{name}.json" for name in report.names(["precision"])]
    parts = {
        "machine": machines(results),
        "goals": goals(results),
        "precision": "\n".join(half(json.loads(p.read_text(encoding="utf-8"))) for p in precision if p.is_file()),
        "workloads": "\n".join(workload(result, name) for name, result in results.items()),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, content in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->\n)", re.DOTALL)
        text, found = pattern.subn(r"\g<1>" + content.replace("\\", r"\\") + r"\g<2>", text)
        assert found == 1, f"{PAGE} has {found} places for {name}"
    return text


def machines(results: dict[str, dict[str, Any]]) -> str:
    """Where it was measured: a line for each machine, with the workloads that were measured there where there are
    several of a kind."""
    found: dict[tuple[bool, str], list[str]] = {}
    for name, result in results.items():
        what = f"{report.machine(result['machine'])} (torch {result['machine']['packages']['torch']})"
        found.setdefault((name.endswith(".cuda"), what), []).append(name)
    kinds = [gpu for gpu, _ in found]
    lines = [
        f"- {what}" + (f": {', '.join(names)}." if kinds.count(gpu) > 1 else ".")
        for (gpu, what), names in sorted(found.items())
    ]
    if True not in kinds:
        lines += ["", "None of this says anything about a GPU, of which there was none."]
    return "\n".join(lines) + "\n"


def goals(results: dict[str, dict[str, Any]]) -> str:
    """What was asked and what there is, a row for each goal."""
    rows = ["| workload | asked | there is | |", "|---|---|---|---|"]
    for name, result in results.items():
        for goal in result["goals"]:
            verdict = "reached" if goal["met"] else "**short**"
            if goal["what"] == "memory":
                theirs = " or ".join(goal["theirs"])
                asked = f"at most {100 * goal['ratio']:.0f} % of the memory of {theirs}"
                found = f"{100 * goal['reached']:.0f} %, {' or '.join(goal['ours'])}"
            else:
                asked = f"{goal['ratio']:.3g} times {goal['theirs']}"
                found = f"{goal['reached']:.3g} ({goal['low']:.3g} to {goal['high']:.3g}), {goal['ours']}"
            rows.append(f"| {name} | {asked} | {found} | {verdict} |")
        rows += [f"| {name} | {g['asked']} | no {g['absent']} | **not judged** |" for g in report.unjudged(result)]
    return "\n".join(rows) + "\n"


def workload(result: dict[str, Any], name: str) -> str:
    """A workload's section: its table, and who is missing."""
    head, body = report.rows(result)
    ruler = ["---", *["---:"] * (len(head) - 1)]
    table = ["| " + " | ".join(cell or " " for cell in row) + " |" for row in [head, ruler, *body]]
    missing = [f"Without {who}: {why}." for who, why in result["missing"].items()]
    return "\n".join([f"### {name}", "", f"{result['title']}.", "", *table, "", *missing]).rstrip() + "\n"


def half(kept: dict[str, Any]) -> str:
    """What training in bf16 does to accuracy."""
    rows = ["| learner | steps | float32 | bf16 | bf16 less float32 | time of training |", "|---|---|---|---|---|---|"]
    for row in kept["rows"]:
        rows.append(
            f"| {row['learner']} | {row['steps']:,} | {row['float32']} | {row['bf16']} | {row['difference']} | "
            f"{row['time']:.2f} of float32's |"
        )
    return f"{kept['what']}\n\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
