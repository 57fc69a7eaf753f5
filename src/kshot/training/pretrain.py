"""The ordinary training that baselines start from: one network for all training data, at the meta-learner's budget.

For classes, a conventional classifier over all train classes, whose features serve unseen ones (Chen et al. 2019, "A
closer look at few-shot classification": the baseline that meta-learners have to beat). For functions, one network
fitted to all tasks pooled (the "pretrained" baseline of Finn et al. 2017, section 5.1).
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kshot
from kshot import capture, randomness
from kshot.artifacts import atomic_file, load_state, load_tensors, save_tensors
from kshot.capture import CapturedModule
from kshot.episodes import Examples, first_tensor
from kshot.errors import ArtifactError, DivergedError, UnsupportedError
from kshot.learners import ProtoNet
from kshot.learners.base import Learner
from kshot.models import Backbone, Frozen, norms
from kshot.models.layout import channels_last
from kshot.randomness import seeded
from kshot.tasks.gather import Gatherer, views
from kshot.tasks.pooled import PoolTasks
from kshot.tasks.replay import ReplayTasks
from kshot.tasks.split import TaskSplit
from kshot.training.optimizers import make_schedule
from kshot.training.step import resolve_device
from kshot.training.validation import better, validate

FORMAT = 1
VALIDATIONS = 10
LR = {"classification": 3e-3, "regression": 1e-3}
"""Of Adam: the best of 1e-3, 3e-3 and 1e-2 on val tasks of `glyphs` after 99,000 pictures (92.9, 93.7, 90.4)."""
EXAMPLE, TURN, VIEW, DROPOUT = (
    randomness.stream(f"pretrain/{name}") for name in ("example", "turn", "view", "dropout")
)

Progress = Callable[[int, int, float], None]
"""Called with the steps done, their number and the loss."""


class PretrainedNetwork(nn.Module):
    """A conventionally trained network.

    Args:
        backbone: `[n, *shape] -> [n, d]`.
        outputs: of the linear head: training classes, or values; None: the backbone's own output.

    Attributes:
        info: how it was trained, JSON-able: `examples`, `steps`, `batch`, `lr`, `seed`, `val`, `best_step`, `seconds`.
    """

    def __init__(self, backbone: nn.Module, outputs: int | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = None if outputs is None else nn.Linear(int(backbone.out_features), outputs)  # type: ignore[arg-type]
        self.info: dict[str, Any] = {}

    def features(self, x: Tensor) -> Tensor:
        """`[n, *shape] -> [n, d]`: what comes before the head."""
        with channels_last():  # as a learner's shared features are
            out: Tensor = self.backbone(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the training classes `[n, classes]`, or values `[n, outputs]`."""
        z = self.features(x)
        out: Tensor = z if self.head is None else self.head(z)
        return out


class _AsItIs(Learner):
    """A regressor that does not adapt, so that the network can be scored on tasks."""

    outputs = "values"
    native = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def features(self, x: Any) -> Any:
        return self.network(x)

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        return {}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        return x


def pretrain(
    backbone: Callable[[], nn.Module],
    train: TaskSplit,
    val: TaskSplit | None = None,
    *,
    examples: int,
    seed: int = 0,
    batch: int = 64,
    lr: float | None = None,
    val_tasks: int = 100,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> PretrainedNetwork:
    """Trains a network conventionally: Adam, cosine schedule, selected on val tasks.

    Args:
        backbone: makes a freshly initialised network (`fresh_backbone(learner)`); called under the seed.
        train: classification: its pool's classes are told apart, by cross entropy, in batches drawn uniformly from
            the examples that may have a label, turned as the pool says, in the views that train tasks show. Regression:
            the points of its tasks, pooled, by squared error.
        val: the network is selected by nearest class means on its features (classification) or its squared error
            (regression) on these tasks; None: the last weights are taken.
        examples: how many training examples may pass through: those that the meta-learner saw
            (`learner.provenance["examples"]`).
        seed: of initialisation and batches.
        batch: examples a step.
        lr: of Adam; None: what `LR` has for the kind of tasks.
        progress: called after every step.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        DivergedError: its loss is not finite.
        UnsupportedError: tasks of sequences, which have no labelled examples.
    """
    if train.kind not in LR:
        raise UnsupportedError(
            f"a network is trained conventionally on labelled examples, and the tasks of {train.name} are of kind "
            f"{train.kind}: compare with another learner of such tasks"
        )
    place = resolve_device(device)
    lr = LR[train.kind] if lr is None else lr
    if train.pool is None:  # whole tasks
        batch = max(1, round(batch / (train.support_size + train.query_size))) * (train.support_size + train.query_size)
    steps = max(1, math.ceil(examples / batch))
    began = time.perf_counter()
    with seeded(seed):
        network = _make(backbone(), train).to(place).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=lr)
        schedule = make_schedule("cosine", optimizer, steps)
        best: dict[str, Tensor] | None = None
        score: float | None = None
        best_step = steps
        for step, (x, y) in enumerate(_batches(train, batch, steps, seed, place)):
            torch.manual_seed(int(randomness.bits(seed, DROPOUT, step) >> np.uint64(1)))
            output = network(x)
            loss = F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)
            if not math.isfinite(float(loss.detach())):
                raise DivergedError(
                    f"the conventional training of a {type(network.backbone).__name__} diverged at step {step + 1} of "
                    f"{steps}: try a lower lr (it is {lr:g}), and check that the inputs are normalised"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            norms.commit(network)
            done = step + 1
            if progress is not None:
                progress(done, steps, float(loss.detach()))
            if val is not None and (done == steps or done % max(1, steps // VALIDATIONS) == 0):
                value = _score(network, val, val_tasks)
                if better(val.kind, value, score):
                    score, best_step = value, done
                    best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    if best is not None:
        network.load_state_dict(best)
    network.info = {
        "kind": train.kind,
        "examples": steps * batch,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "seed": seed,
        "val": score,
        "val_tasks": None if val is None else val_tasks,
        "best_step": best_step,
        "seconds": round(time.perf_counter() - began, 3),
    }
    return network.cpu().eval()


def fresh_backbone(learner: Learner) -> nn.Module:
    """A network like the learner's backbone, freshly initialised from torch's current random state.

    Where the backbone keeps its maps (`Conv4(flatten=False)`, for a relation network) this one gives vectors of them,
    as a classifier needs.

    Raises:
        UnsupportedError: the learner has none.
    """
    backbone = find_backbone(learner)
    if isinstance(backbone, CapturedModule):
        config = backbone.config
        if not getattr(backbone, "flatten", True):
            config = {**config, "arguments": {**config["arguments"], "flatten": True}}
        try:
            built: nn.Module = capture.build(config)
            return built
        except ArtifactError:  # made of parts whose arguments are not known: a copy does as well
            pass
    fresh = copy.deepcopy(backbone)
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return fresh


def find_backbone(learner: Learner) -> nn.Module:
    """The learner's feature network: its attribute `backbone`, or the first `Backbone` in it; of a frozen one, what is
    frozen.

    Raises:
        UnsupportedError: there is none.
    """
    own = getattr(learner, "backbone", None)
    found = own if isinstance(own, nn.Module) else next((m for m in learner.modules() if isinstance(m, Backbone)), None)
    if found is None:
        raise UnsupportedError(
            f"{type(learner).__name__} has no backbone that a baseline could be trained with: name the feature network "
            "'backbone', or derive it from kshot.models.Backbone"
        )
    return found.backbone if isinstance(found, Frozen) else found


def save_network(network: PretrainedNetwork, folder: str | Path) -> Path:
    """Writes `network.safetensors` and `baseline.json` into a folder (a run's `baselines/`), each as a whole.

    Raises:
        RunError: the disk is full, or there is no permission.
        ArtifactError: a backbone whose constructor arguments are not known.
    """
    folder = Path(folder)
    if not isinstance(network.backbone, CapturedModule):
        raise ArtifactError(
            f"the network's {type(network.backbone).__name__} cannot be saved: derive it from kshot.models.Backbone, "
            "which captures its constructor's arguments"
        )
    document = {
        "format": FORMAT,
        "kshot": kshot.__version__,
        "backbone": network.backbone.config,
        "outputs": None if network.head is None else network.head.out_features,
        "info": network.info,
    }
    save_tensors(folder / "network.safetensors", network.state_dict())
    atomic_file(
        folder / "baseline.json", json.dumps(document, indent=2) + "\n"
    )  # last: it says that the other is there
    return folder


def load_network(folder: str | Path) -> PretrainedNetwork:
    """The network that `save_network` wrote, in eval mode.

    Raises:
        ArtifactError: there is none, it is of another version, or its tensors do not fit.
    """
    path = Path(folder) / "baseline.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"there is no baseline network in {folder}, or it is damaged: {error}. Remove the folder, and it is "
            "trained again"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise ArtifactError(
            f"{path} has format {found}, expected {FORMAT}: another version of kshot wrote it. Remove the folder "
            f"{folder}, and the network is trained again"
        )
    missing = sorted({"backbone", "outputs", "info"} - set(document))
    if missing:
        raise ArtifactError(
            f"{path} lacks {', '.join(missing)}. Remove the folder {folder}, and the network is trained again"
        )
    with seeded(0):
        network = PretrainedNetwork(capture.build(document["backbone"]), document["outputs"])
    load_state(network, load_tensors(Path(folder) / "network.safetensors")[0], Path(folder) / "network.safetensors")
    network.info = document["info"]
    return network.eval()


def _make(backbone: nn.Module, train: TaskSplit) -> PretrainedNetwork:
    if train.pool is not None:
        return PretrainedNetwork(backbone, len(train.pool))
    values = int(train.sample(1, seed=0).query.y.shape[-1])
    # A regressor of a task at a time gives the values itself; features need a head.
    return PretrainedNetwork(backbone, None if int(backbone.out_features) == values else values)  # type: ignore[arg-type]


def _batches(
    train: TaskSplit, batch: int, steps: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs `[n, *shape]` with labels int64 `[n]`, or targets `[n, d]`."""
    return (
        _pooled_points(train, batch, steps, seed, device)
        if train.pool is None
        else _examples(train, batch, steps, seed, device)
    )


def _examples(
    train: TaskSplit, batch: int, steps: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Examples of all classes, each as likely as any other; step by step a hash of (seed, step, place). Where training
    tasks show views of them, so does this."""
    assert isinstance(train, (PoolTasks, ReplayTasks))
    pool = train.pool
    gather = Gatherer(pool, train.transform)
    row, owner = train.labelled_rows()
    place = np.arange(batch)
    for step in range(steps):
        chosen = randomness.integers(len(row), seed, EXAMPLE, step, place)
        turn = pool.turns.numpy()[owner[chosen]]
        if pool.random_turns:
            turn = (turn + randomness.integers(4, seed, TURN, step, place)) % 4
        change = None
        if train.augment is not None:
            change = views(train.augment, randomness.bits(seed, VIEW, step, place))
        x = gather(row[chosen] * 4 + turn, None if device.type == "cpu" else device, change)
        yield x, torch.from_numpy(owner[chosen]).to(device)


def _pooled_points(
    train: TaskSplit, batch: int, steps: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The points of as many tasks as make a batch, support and query alike."""
    tasks = batch // (train.support_size + train.query_size)
    for episodes in train.batches(tasks, steps=steps, seed=seed):
        parts = (episodes.support, episodes.query)
        x = torch.cat([first_tensor(part.x)[part.mask] for part in parts])
        yield x.to(device), torch.cat([part.y[part.mask] for part in parts]).to(device)


def _score(network: PretrainedNetwork, val: TaskSplit, tasks: int) -> float:
    """Nearest class means on the features, or the squared error of the network as it is, over val tasks."""
    learner: Learner = ProtoNet(network.backbone) if val.kind == "classification" else _AsItIs(network)
    return validate(learner.train(), val, tasks, mode="native").mean
