"""Sweeps that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kshot.sweep import SweepResult, SweepSpec, sweep

BASE = {
    "learner": {"name": "maml", "inner_lr": 0.01},
    "backbone": {"name": "mlp", "hidden": [8], "out_features": 1},
    "data": {"name": "sinusoids", "shot": 5, "query": 5},
    "training": {"steps": 4, "meta_batch": 4, "val_tasks": 10, "val_every": 2, "mode": "vmap", "device": "cpu"},
}
SPACE: dict[str, Any] = {
    "learner.inner_lr": {"low": 0.001, "high": 0.1, "log": True},
    "training.meta_batch": {"low": 2, "high": 8, "step": 2},
}


def spec(**changes: Any) -> SweepSpec:
    content = {"name": "toy", "base": BASE, "space": SPACE, "trials": 4, "confirm_tasks": 20, **changes}
    return SweepSpec.model_validate(content)


def run(out: Path, said: list[str] | None = None, storage: str | None = None, **changes: Any) -> SweepResult:
    return sweep(spec(**changes), out, storage=storage, say=(said if said is not None else []).append, heartbeat=1)
