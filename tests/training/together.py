"""What test_distributed has several processes do: python together.py WHAT FOLDER."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch

import kshot
from kshot import models
from kshot.engine import distributed
from kshot.errors import KshotError
from kshot.processes import place
from kshot.training import Callback

sys.path.insert(0, str(Path(__file__).parent))
from training_toys import FEATURES, gaussians, sinusoids


class Normalised(models.Backbone):
    """A network whose running statistics move."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = models.Sequential(
            torch.nn.Linear(FEATURES, 16, bias=False), models.TaskBatchNorm(16), torch.nn.ReLU()
        )
        self.out_features = 16

    def forward(self, x, statistics=None):
        return self.layers(x, statistics)


def maml():
    torch.manual_seed(place().rank)  # processes that begin with other weights than the first
    return kshot.MAML(models.MLP(1, hidden=(16,), out_features=1), inner_lr=0.02, inner_steps=2)


def options(**more):
    return {"steps": 50, "meta_batch": 5, "seed": 7, "val_tasks": 11, "val_every": 10, "progress": None, **more}


def main(what: str, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    rank, size = place()[:2]
    if what == "weights":
        learners = {}
        result = kshot.Trainer(maml(), sinusoids(), **options(mode="vmap", accumulate=2, clip=1.0)).fit()
        learners["maml"] = result.learner
        learners["protonet"] = kshot.ProtoNet(Normalised())
        with torch.no_grad():
            for p in learners["protonet"].parameters():
                p.copy_(torch.linspace(-0.5, 0.5, p.numel()).view_as(p) + 0.1 * rank)
        trained = kshot.Trainer(learners["protonet"], gaussians(), **options(mode="native", lr=0.01)).fit()
        if rank == 0:
            torch.save({n: learner.state_dict() for n, learner in learners.items()}, folder / f"weights-{size}.pt")
            rows = {"maml": result.history, "protonet": trained.history, "examples": trained.examples}
            (folder / f"history-{size}.json").write_text(json.dumps(rows))
    elif what == "killed":

        class Killer(Callback):
            def on_start(self, trainer):
                (folder / f"began-{rank}-of-{size}").write_text(str(trainer.step))

            def on_step(self, trainer, step, metrics):
                if step == 25 and rank == size - 1 and os.environ.get("KILL"):
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            trainer = kshot.Trainer(
                maml(), sinusoids(), **options(mode="vmap", out=folder / "run", resume=True, save_every=10),
                callbacks=[Killer()],
            )  # fmt: skip
            trainer.fit()
        except KshotError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            sys.exit(1)
    elif what == "stopped":

        class Stopper(Callback):
            def on_step(self, trainer, step, metrics):
                if step == 5 and rank == 1:
                    trainer.stop()

        result = kshot.Trainer(maml(), sinusoids(), **options(mode="vmap"), callbacks=[Stopper()]).fit()
        (folder / f"stopped-{rank}.json").write_text(json.dumps([result.steps, result.stopped]))
    elif what == "differ":

        class Meddler(Callback):
            def on_step(self, trainer, step, metrics):
                if rank == 1:
                    with torch.no_grad():
                        next(trainer.learner.parameters()).add_(1e-3)

        try:
            kshot.Trainer(maml(), sinusoids(), **options(mode="vmap"), callbacks=[Meddler()]).fit()
        except KshotError as error:
            (folder / f"differ-{rank}.txt").write_text(str(error))
    distributed.leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
