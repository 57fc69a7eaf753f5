"""Training in bf16 beside training in float32: accuracy on the same unseen tasks, and time.

    python benchmarks/precision.py                  # prints, and writes benchmarks/results/precision.json
    python benchmarks/precision.py --device cuda    # benchmarks/results/precision.cuda.json

The same learner from the same seed on the same tasks, once in each precision, in turn; both are evaluated in float32.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from kshot.bench.machine import describe, full_float32
from kshot.cli import allocator
from kshot.evaluation import evaluate
from kshot.evaluation.text import show
from kshot.metrics import paired_difference
from kshot.training.config import build_source, build_trainer, parse_config

RESULTS = Path(__file__).parent / "results"
TASKS = 600
CASES: dict[str, dict[str, Any]] = {
    "ProtoNet": {
        "learner": {"name": "protonet"},
        "data": {"way": 5, "shot": 1, "query": 15, "train": {"way": 20, "query": 5}},
        "training": {"steps": 300, "meta_batch": 1, "mode": "native"},
    },
    "MAML": {
        "learner": {"name": "maml", "inner_lr": 0.4, "inner_steps": 1, "norm": "batch"},
        "data": {"way": 5, "shot": 1, "query": 15, "train": {"query": 5}},
        "training": {"steps": 200, "meta_batch": 4, "mode": "loop", "chunk": 1},
    },
}


def compare(name: str, case: dict[str, Any], data: str, device: str) -> dict[str, Any]:
    """Trains a learner in both precisions and scores both on the same test tasks."""
    scores, seconds = {}, {}
    for amp in (None, "bf16"):
        content = {
            "learner": case["learner"],
            "backbone": {"name": "conv4"},
            "data": {**case["data"], "name": "omniglot", "options": {"split": "vinyals"}},
            "training": {
                **case["training"],
                "amp": amp,
                "val_tasks": 100,
                "val_every": 100,
                "seed": 0,
                "device": device,
            },
        }
        config = parse_config(content)
        source = build_source(config, data)
        result = build_trainer(config, source=source, out=None, progress=False).fit()
        found = evaluate(result.learner, source.test, TASKS, baselines=False)
        scores[amp], seconds[amp] = found, result.seconds
        print(f"{name}, {amp or 'float32'}: {show(found.interval, 'accuracy')} in {result.seconds:.0f} s", flush=True)
    gap = paired_difference(scores["bf16"].scores, scores[None].scores)
    return {
        "learner": name,
        "steps": case["training"]["steps"],
        "float32": show(scores[None].interval, "accuracy"),
        "bf16": show(scores["bf16"].interval, "accuracy"),
        "difference": show(gap, "accuracy", sign=True),
        "time": seconds["bf16"] / seconds[None],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    device = parser.parse_args().device
    allocator.raise_thresholds()
    data = os.environ["KSHOT_DATA"]
    found = describe(device)
    with full_float32():  # or what is called float32 here would be TF32 on a GPU
        rows = [compare(name, case, data, device) for name, case in CASES.items()]
    command = "python benchmarks/precision.py" + ("" if device == "cpu" else f" --device {device}")
    where = found.get("gpu") or found["cpu"]
    what = (
        "Conv-4 on Omniglot, 5-way 1-shot, trained from one seed on the same tasks in float32 and with `amp: bf16`, "
        f"both evaluated in float32 on the same {TASKS} test tasks, on {where} (`{command}`)."
    )
    kept = {"what": what, "machine": found, "rows": rows}
    path = RESULTS / ("precision.json" if device == "cpu" else f"precision.{device}.json")
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
