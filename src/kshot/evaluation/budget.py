"""How much a full report measures."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How much a full report measures.

    Attributes:
        tasks: unseen tasks.
        baseline_tasks: of them for the baselines.
        measure_tasks: for each point of a curve, each audit, each condition.
        shots: numbers of shots to try.
        ceiling: examples that pass through in training the fully supervised ceiling, and its classes.
        scaling_steps: outer steps of each short run on parts of the training classes; 0 leaves them out.
        scaling_seconds: no such run is begun after that time.
        label_baselines: those whose need of labels is measured.
        seconds: what takes long and is wanted least, the ceiling, is not begun after that time.
    """

    tasks: int
    baseline_tasks: int
    measure_tasks: int
    shots: tuple[int, ...]
    ceiling: tuple[int, int]
    scaling_steps: int
    scaling_seconds: float
    label_baselines: tuple[str, ...]
    seconds: float


BUDGETS = {
    "quick": Budget(
        tasks=600,
        baseline_tasks=40,
        measure_tasks=100,
        shots=(1, 2, 5, 10),
        ceiling=(5_000, 30),
        scaling_steps=0,
        scaling_seconds=0.0,
        label_baselines=("linear_probe", "nearest_centroid"),
        seconds=40.0,
    ),
    "full": Budget(
        tasks=1000,
        baseline_tasks=100,
        measure_tasks=400,
        shots=(1, 2, 5, 10, 20, 50),
        ceiling=(100_000, 200),
        scaling_steps=100,
        scaling_seconds=300.0,
        label_baselines=("fine_tuned", "linear_probe", "nearest_centroid"),
        seconds=math.inf,
    ),
}
