"""The adaptation server against its floor, measured in the same run.

    python benchmarks/serving                           # all of it: about ten minutes, two cores, nothing else running
    python benchmarks/serving predict create            # some of it

The floor of a request is the same HTTP stack with an empty handler, and the bare model. The server is `kshot serve` on
an embedded SQLite, with keys, its log and its checks; the load comes from a second process (`load.py`), from
letters that the model was not trained on. Parts: `predict` (64 clients; one task, and 1,000 tasks of 1,000 tenants),
`create` (5-way 5-shot, ProtoNet and MAML), `overload` (latency at 70% of the saturation, shedding at three times it),
`hidden` (the time of a 404), `heads` (stacked, one by one), `stored` (100,000 tasks); and, on Omniglot's files, `drift`
(50 queries of another alphabet), `suggest` (which of a pool to label next) and `refine` (a learner trained on what was
asked, promoted). Prints a table and writes `benchmarks/results/serving.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alphabets import drift, refine, suggest
from answering import heads, hidden, overload, predict
from creating import create, stored
from letters import Letters

RESULTS = Path(__file__).parents[1] / "results" / "serving.json"

PARTS: dict[str, Callable[[Path, Letters], dict[str, Any]]] = {
    "predict": predict,
    "create": create,
    "overload": overload,
    "hidden": hidden,
    "heads": heads,
    "stored": stored,
    "drift": drift,
    "suggest": suggest,
    "refine": refine,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; by default all")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"expected parts of {', '.join(PARTS)}, got {unknown[0]}")
    letters = Letters.of(200)
    path = RESULTS
    kept = json.loads(path.read_text()) if path.exists() else {}
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="kshot-serving-") as folder:
            found = PARTS[part](Path(folder), letters)
        found["hardware"] = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        found["commit"] = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
        ).stdout.strip()
        kept[part] = found
        for one in found["figures"]:
            sign = ">=" if one["at_least"] else "<="
            word = "reached" if one["reached"] else "SHORT"
            print(f"{one['figure']:64} {one['value']:>9.3f}  {sign} {one['target']:<6} {word}", flush=True)
        path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"kept in {path.relative_to(RESULTS.parents[2])}")


if __name__ == "__main__":
    main()
