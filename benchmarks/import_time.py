"""How long `import kshot` takes, as a multiple of `import torch`: the budget is 1.5.

Fresh interpreters by turns, so that a change of the machine's speed meets all of them; medians.

    python benchmarks/import_time.py [ROUNDS]
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

PROGRAMS = {
    "import torch": "import torch",
    "import kshot": "import kshot",
    "import kshot, every public name": "import kshot; [getattr(kshot, name) for name in kshot.__all__]",
}

TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(code: str) -> float:
    """What the code takes in a fresh interpreter, its start excluded."""
    done = subprocess.run([sys.executable, "-c", TIMED.format(code)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(rounds: int = 7) -> None:
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for i in range(rounds + 1):
        for name, code in PROGRAMS.items():
            once = seconds(code)
            if i:  # the first round only warms the disk's cache
                times[name].append(once)
    base = median(times["import torch"])
    for name, values in times.items():
        print(f"{name:<34}{median(values):7.3f} s{median(values) / base:7.2f} x")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
