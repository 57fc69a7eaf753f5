"""docs/performance.md says what the kept results say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from kshot.bench.workloads import workloads

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "bench"


def test_the_page_is_that_of_the_results() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "performance_page.py"))["page"]()
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == page, (
        "python tools/performance_page.py writes the page anew"
    )


@pytest.mark.parametrize("name", workloads())
def test_every_workload_has_a_result(name: str) -> None:
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert result["contenders"] and result["machine"]["ceilings"]["flops"] > 0
    assert result["title"] == workloads()[name]().title
