"""Trains in processes of its own that are killed: imported once, forked for each.

Run as a script: `resume_server.py FOLDER`. Prints a JSON line for each of its runs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_toys import Noisy, gaussians, maml, protonet, sinusoids

import kshot
from kshot.randomness import seeded

STEPS = 12


def classification() -> dict[str, Any]:
    """Dropout, batch normalisation, momentum, a schedule with warm-up, clipping."""
    return {
        "learner": protonet(noisy=True),
        "source": gaussians(),
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True},
        "lr": 0.05,
        "warmup": 3,
        "clip": 1.0,
        "accumulate": 2,
        "mode": "native",
        "val_every": 3,
    }


def regression() -> dict[str, Any]:
    """Adam, checkpoints between the validations, vmap."""
    return {"learner": maml(), "source": sinusoids(), "lr": 0.01, "mode": "vmap", "val_every": 4, "save_every": 3}


def adapted_norm() -> dict[str, Any]:
    """MAML through dropout and batch normalisation, AdamW, a schedule of the user's own."""
    with seeded(0):
        learner = kshot.MAML(Noisy(), way=3, inner_lr=0.1)
    return {"learner": learner, "source": gaussians(), "optimizer": "adamw", "lr": 0.01, "mode": "loop", "val_every": 5,
            "schedule": exponential}  # fmt: skip


def exponential(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def train(make: Any, out: Path, resume: bool) -> None:
    options = {"steps": STEPS, "meta_batch": 3, "val_tasks": 8, "progress": False, "device": "cpu", **make()}
    kshot.Trainer(options.pop("learner"), options.pop("source"), out=out, resume=resume, **options).fit()


def at_every_touch(folder: Path, act: Callable[[], object]) -> None:
    """Acts before this process touches a file of the folder."""

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        touched = name in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
        if touched and isinstance(arguments[0], (str, os.PathLike)) and str(arguments[0]).startswith(str(folder)):
            act()

    sys.addaudithook(hook)


def count_touches(folder: Path, log: Path) -> None:
    """Writes into the log a byte for every touch of the folder."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    at_every_touch(folder, lambda: os.write(file, b"."))


def die_at_touch(folder: Path, number: int) -> None:
    """Kills this process when it touches the folder for the n-th time."""
    left = iter(range(number - 1, -1, -1))

    def act() -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    at_every_touch(folder, act)


def die_in(seconds: float) -> None:
    """Kills this process after some time, wherever it is: an alarm that nobody catches."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def forked(run: Any) -> int:
    """The signal that the process died of; 0 where it ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the training failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    draw = random.Random(0)
    for make in (classification, regression, adapted_norm):
        train(
            make, folder / f"{make.__name__}-warm", False
        )  # what is imported on first use is imported before the forks
    for make in (classification, regression, adapted_norm):
        name = make.__name__
        straight = folder / f"{name}-straight"

        def counted(make: Any = make, out: Path = straight) -> None:
            count_touches(out, out.with_suffix(".log"))
            train(make, out, False)

        forked(counted)
        touches = straight.with_suffix(".log").stat().st_size
        # When a file is touched, mostly those of checkpoints; then resumed to the end.
        for number in sorted(draw.sample(range(1, touches), 5)):
            out = folder / f"{name}-{number}"

            def killed(make: Any = make, out: Path = out, number: int = number) -> None:
                die_at_touch(out, number)
                train(make, out, False)

            signals = [forked(killed)]
            forked(lambda make=make, out=out: train(make, out, True))
            print(json.dumps({"straight": str(straight), "run": str(out), "signals": signals}), flush=True)
        # Again and again, at any moment.
        out, signals = folder / f"{name}-often", []
        for _ in range(8):

            def killed_in(make: Any = make, out: Path = out, seconds: float = draw.uniform(0.02, 0.5)) -> None:
                die_in(seconds)
                train(make, out, True)

            signals.append(forked(killed_in))
            if not signals[-1]:
                break
        if signals[-1]:
            forked(lambda make=make, out=out: train(make, out, True))
        print(json.dumps({"straight": str(straight), "run": str(out), "signals": signals}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
