"""The figures that kshot claims, each from a committed configuration: trained, timed, measured, kept.

    python benchmarks/figures.py protonet     # Omniglot, Vinyals split: 15 minutes of training on two cores
    python benchmarks/figures.py maml         # Omniglot 5-way 1-shot, second order: half an hour
    python benchmarks/figures.py sinusoid     # MAML's sinusoids, all 70,000 iterations: five minutes

Prints a table of figure, target, measured and reached, and writes `benchmarks/results/NAME.json`. `--steps N` tries it
out; a run that was stopped is resumed. Omniglot is expected in KSHOT_DATA; selection is on val tasks.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import kshot
from kshot.cli import allocator
from kshot.metrics import Interval
from kshot.training.config import build_trainer, load_config

ROOT = Path(__file__).parent
CONFIGS = Path(kshot.__file__).parent / "configs"

# What is measured: (what, options of the split, options of adapt, target); see docs/figures.md.
PROTONET = [
    ("5-way 1-shot", {"way": 5, "shot": 1}, {}, 98.0),
    ("5-way 5-shot", {"way": 5, "shot": 5}, {}, 99.4),
    ("20-way 1-shot", {"way": 20, "shot": 1}, {}, 93.5),
]
MAML = [("5-way 1-shot", {"way": 5, "shot": 1}, {}, 96.0)]
SINUSOID = [
    (f"5-shot MSE after {steps} steps", {"shot": 5}, {"steps": steps}, target)
    for steps, target in ((1, 0.67), (5, 0.38), (10, 0.35))
]
FIGURES = {
    "protonet": ("omniglot-protonet", PROTONET, 15),
    "maml": ("omniglot-maml", MAML, 30),
    "sinusoid": ("sinusoid-maml", SINUSOID, 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--steps", type=int, help="fewer outer steps than the configuration's, to try it out")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    allocator.raise_thresholds()  # as the command line does

    name, wanted, minutes = FIGURES[arguments.figure]
    tried = f"-{arguments.steps}" if arguments.steps else ""
    out = f"runs/figures/{name}-seed{arguments.seed}{tried}"
    overrides = [f"out={out}", f"training.seed={arguments.seed}"]
    if arguments.steps:
        overrides.append(f"training.steps={arguments.steps}")
    trainer = build_trainer(load_config(CONFIGS / f"{name}.yaml", overrides), resume=True)
    trained = trainer.fit()
    learner = trained.learner

    rows: list[dict[str, Any]] = []
    for what, task, options, target in wanted:
        split = trainer.source.test.replace(**task)
        # Regression errors have heavy tails: more tasks for a narrower interval.
        tasks = arguments.tasks if split.kind == "classification" else 10 * arguments.tasks
        found = kshot.evaluate(learner, split, tasks=tasks, baselines=False, options=options)
        rows.append(row(what, found.interval, target, found.transductive, found.metric))
    training = row("training minutes", None, minutes, False, "minutes", trained.seconds / 60)
    report(arguments.figure, [*rows, training], trained, name)


def row(
    what: str, score: Interval | None, target: float, transductive: bool, metric: str, value: float = 0.0
) -> dict[str, Any]:
    """A line of the table: more is better for an accuracy, less for an error or a time."""
    scale = 100 if metric == "accuracy" else 1
    measured = value if score is None else scale * score.mean
    return {
        "figure": what + (" (transductive)" if transductive else ""),
        "target": target,
        "measured": round(measured, 4),
        "half_width": None if score is None else round(scale * score.half_width, 3),
        "reached": measured >= target if metric == "accuracy" else measured <= target,
    }


def report(figure: str, rows: list[dict[str, Any]], trained: Any, config: str) -> None:
    print(f"{'':34} {'target':>8} {'measured':>16}")
    for r in rows:
        width = "" if r["half_width"] is None else f" ± {r['half_width']:.2f}"
        verdict = "reached" if r["reached"] else "SHORT"
        print(f"{r['figure']:34} {r['target']:8} {r['measured']:9.2f}{width:7} {verdict}")
    result = {
        "config": f"{config}.yaml",
        "rows": rows,
        "steps": trained.steps,
        "selected_step": trained.best_step,
        "training_examples": trained.examples,
        "engine_mode": trained.mode,
        "seconds": round(trained.seconds, 1),
        "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
    }
    path = ROOT / "results" / f"{figure}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"kept in {path.relative_to(ROOT.parent)}")


if __name__ == "__main__":
    main()
