"""Memory of an outer step against inner steps: iMAML, whose meta-gradient forgets the way, and unrolled MAML.

    python benchmarks/memory.py

Conv-4 (64 channels, 28x28, batch normalisation), 5-way 1-shot with 15 queries a class, random images: the peak of what
torch allocates in one outer step, loss and backward pass, one task after another. The figure: with 50 inner steps iMAML
takes at most 1.3 times what it takes with 5. Prints a table and writes `benchmarks/results/memory.json`.
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
from kshot.engine import peak_memory, task_losses
from kshot.episodes import Episodes, Examples
from kshot.models import Conv4
from kshot.randomness import seeded

ROOT = Path(__file__).parent
LEARNERS = {"iMAML": kshot.IMAML, "MAML": kshot.MAML}
STEPS = (5, 10, 20, 50)
TARGET = 1.3
WAY, SHOT, QUERY = 5, 1, 15


def tasks(count: int) -> Episodes:
    """Random images: memory depends on nothing but shapes."""

    def examples(each: int) -> Examples:
        y = torch.arange(WAY).repeat_interleave(each).expand(count, -1)
        mask, classes = torch.ones(y.shape, dtype=torch.bool), torch.ones(count, WAY, dtype=torch.bool)
        return Examples(torch.randn(*y.shape, 1, 28, 28), y, mask, classes, padded=False)

    return Episodes(examples(SHOT), examples(QUERY), torch.arange(WAY).expand(count, -1))


def measure(cls: Any, steps: int, episodes: Episodes) -> int:
    """The peak of one outer step in bytes."""
    with seeded(0):
        learner = cls(Conv4(in_channels=1, channels=64, image_size=28, norm="batch"), way=WAY, inner_steps=steps)
    return peak_memory(lambda: task_losses(learner, episodes, "loop").mean().backward())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1, help="of the meta-batch")
    arguments = parser.parse_args()
    with seeded(0):
        episodes = tasks(arguments.tasks)
    rows: list[dict[str, Any]] = []
    print(f"peak of an outer step of {arguments.tasks} task(s), MiB, and as a multiple of that of {STEPS[0]} steps")
    print(f"{'inner steps':12}" + "".join(f"{steps:>16}" for steps in STEPS))
    for name, cls in LEARNERS.items():
        peaks = [measure(cls, steps, episodes) for steps in STEPS]
        ratios = [peak / peaks[0] for peak in peaks]
        cells = (f"{peak / 2**20:8.1f} {ratio:6.2f}x" for peak, ratio in zip(peaks, ratios, strict=True))
        print(f"{name:12}" + "".join(f"{cell:>16}" for cell in cells))
        for steps, peak, ratio in zip(STEPS, peaks, ratios, strict=True):
            rows.append({"learner": name, "inner_steps": steps, "peak_bytes": peak, "ratio": round(ratio, 4)})
    ratio = next(r["ratio"] for r in rows if (r["learner"], r["inner_steps"]) == ("iMAML", STEPS[-1]))
    print(f"iMAML at {STEPS[-1]} over {STEPS[0]} steps: {ratio:.3f}, target {TARGET}: " + verdict(ratio))
    result = {
        "figure": f"iMAML's peak memory at {STEPS[-1]} inner steps over that at {STEPS[0]}",
        "target": TARGET,
        "measured": ratio,
        "reached": ratio <= TARGET,
        "tasks": arguments.tasks,
        "rows": rows,
        "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
    }
    path = ROOT / "results" / "memory.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"kept in {path.relative_to(ROOT.parent)}")


def verdict(ratio: float) -> str:
    return "reached" if ratio <= TARGET else "SHORT"


if __name__ == "__main__":
    main()
