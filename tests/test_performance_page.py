"""docs/performance.md says what the kept results say."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from kshot.bench.workloads import workloads

TOOL = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "performance_page.py"))
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "bench"


def test_the_page_is_that_of_the_results() -> None:
    page = TOOL["page"]()
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == page, (
        "python tools/performance_page.py writes the page anew"
    )


@pytest.mark.parametrize("name", workloads())
def test_every_workload_has_a_result(name: str) -> None:
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert result["contenders"] and result["machine"]["ceilings"]["flops"] > 0
    assert result["title"] == workloads()[name]().title


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_result_is_of_a_commit(path: Path) -> None:
    """And not of files that differed from it, which nobody can measure again."""
    commit = json.loads(path.read_text(encoding="utf-8"))["machine"]["commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit or ""), f"measured at {commit}: measure it again at a commit"


def test_every_device_has_its_line() -> None:
    ceilings = {"flops": 1e12, "bytes": 1e11}
    cpu = {"machine": {"cpu": "A CPU", "threads": 2, "packages": {"torch": "2.13.0"}, "ceilings": ceilings}}
    gpu = {"machine": {**cpu["machine"], "gpu": "A GPU", "ceilings": {**ceilings, "bf16_flops": 9e12}}}
    first = "- A CPU with 2 threads: a matrix product reaches 1,000 GFLOP/s, a copy 100 GB/s (torch 2.13.0).\n"
    assert TOOL["machines"]({"lstm": cpu}) == (
        f"{first}\nNone of this says anything about a GPU, of which there was none.\n"
    )
    assert TOOL["machines"]({"lstm": cpu, "lstm.cuda": gpu}) == (
        f"{first}- A GPU: a matrix product reaches 1,000 GFLOP/s in float32, without TF32, and 9,000 in bf16, a copy "
        "100 GB/s (torch 2.13.0).\n"
    )
    other = {"machine": {**cpu["machine"], "cpu": "B CPU", "instructions": "AVX512, bf16"}}
    assert TOOL["machines"]({"lstm": cpu, "anil": other, "snail": cpu}).startswith(
        f"{first.rstrip()[:-1]}: lstm, snail.\n- B CPU (AVX512, bf16) with 2 threads: a matrix product"
    )


def test_a_goal_that_was_not_judged_is_a_row() -> None:
    result = {
        "goals": [],
        "unjudged": [{"ours": ["kshot"], "theirs": ["jax"], "ratio": 1.0, "what": "time"}],
        "contenders": {"kshot": {"seconds": [1.0]}},
    }
    row = "| sums | kshot is to be 1 times as fast as jax | no jax | **not judged** |"
    assert TOOL["goals"]({"sums": result}).splitlines()[2:] == [row]
