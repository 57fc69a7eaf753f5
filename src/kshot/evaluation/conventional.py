"""The conventional network behind the baselines: trained once on the learner's own training classes, and kept.

Same architecture, same data, same number of training examples as the learner; only not meta-trained. It is kept in the
learner's run (`baselines/`), or in memory with the task source, and used again where what it was made of is the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kshot.capture import CapturedModule
from kshot.episodes import first_tensor
from kshot.errors import ArtifactError, KshotError, RunError, UnsupportedError
from kshot.evaluation.scores import Progress, device_of, example_shape
from kshot.learners.base import Learner
from kshot.models import MLP, Conv4
from kshot.models.norms import FeatureStatistics
from kshot.randomness import seeded
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit
from kshot.training.pretrain import LR, PretrainedNetwork, fresh_backbone, load_network, pretrain, save_network
from kshot.training.seen import data_only, recorded_classes, run_folder, same_data, training_source

DEFAULT_EXAMPLES = 20_000
"""The budget where a learner does not say how many examples it was trained on."""

SILENT_EXAMPLES = 50_000
"""A longer training says that it begins, even where no progress was asked for."""


@dataclass
class Conventional:
    """A conventionally trained network.

    Attributes:
        network: in eval mode, on the learner's device.
        statistics: mean and variance of its features over training examples.
    """

    network: PretrainedNetwork
    statistics: FeatureStatistics

    @property
    def info(self) -> dict[str, Any]:
        """How it was trained: `examples`, `seconds` and more."""
        return self.network.info


def baseline_source(learner: Learner, split: TaskSplit) -> tuple[TaskSource | None, list[str]]:
    """Where the baselines train: the learner's own training classes, whatever data it is evaluated on.

    A learner that does not say what it was trained on gets the training classes of the data that it is evaluated on.

    Returns:
        The source, or None, and notes that say why.
    """
    spec, own = learner.provenance.get("source"), split._source
    if spec and (own is None or not same_data(spec, own.spec)):
        try:
            return training_source(learner), []
        except KshotError as error:
            return None, [f"no pretrained baselines: the learner's training data cannot be loaded ({error})"]
    if own is None or "train" not in own.splits:
        return None, ["no pretrained baselines: neither the learner nor the data has training classes for them"]
    return own, []


def training_split(learner: Learner, source: TaskSource) -> TaskSplit:
    """The training classes that the learner's run recorded; all of the source's where it recorded none of them.

    Of tasks that were made without labels, the classes that the data has all the same.
    """
    split, recorded = source.train, set(recorded_classes(learner).get("train", ()))
    if not split.has_labels:
        split = split.replace(labels="given", way=2, shot=1, query=1)
    if split.pool is None or not recorded:
        return split
    kept = [name in recorded for name in split.pool.names]
    return split if all(kept) or not any(kept) else split.subset(kept)


def conventional_network(
    learner: Learner, source: TaskSource, *, seed: int = 0, progress: Progress | None = None
) -> tuple[Conventional, list[str]]:
    """The network that belongs to a learner: the kept one where it fits, else a new one, which is then kept.

    Args:
        learner: gives architecture, budget and run.
        source: gives the training classes, and the val tasks that the network is selected on.
        seed: of its initialisation and batches.

    Returns:
        It, and notes.

    Raises:
        UnsupportedError: tasks of a kind that no network can be trained on conventionally.
    """
    notes: list[str] = []
    taken = (learner.provenance, learner.provenance.get("weights") or {})  # what it began with was trained, too
    budget = sum(int(part.get("examples") or 0) for part in taken)
    if not budget:
        budget = DEFAULT_EXAMPLES
        notes.append(
            f"the learner's training budget is not recorded; the baselines' network was trained on {budget:,} examples"
        )
    if not source.train.has_labels:
        notes.append("the learner was trained without labels; the baselines' network was trained with them")
    train, device = training_split(learner, source), device_of(learner)
    with seeded(seed):
        made = fresh_network(learner, train)
    spec: dict[str, Any] = {
        "backbone": _described(made),
        "data": data_only(source.spec) or source.name,  # tasks of another shot need no other network
        "classes": None if train.pool is None else _digest(train.pool.names),
        **{name: train.options[name] for name in ("labelled", "labelled_seed", "augment") if name in train.options},
        "seed": seed,
        "lr": LR.get(train.kind),
    }
    kept: dict[tuple[str, int], Conventional] = source.__dict__.setdefault("_conventional", {})
    key, run = _digest(spec), run_folder(learner)
    if (key, budget) not in kept:
        network = None if run is None else _kept(run / "baselines", spec, key, budget)
        if network is None:
            if progress is None and budget > SILENT_EXAMPLES:
                where = "in memory" if run is None else f"in {run / 'baselines'}"
                print(
                    f"Training the baselines' conventional network once, on {budget:,} examples as the learner had; "
                    f"it is kept {where}",
                    file=sys.stderr,
                )
            network = pretrain(
                lambda: fresh_network(learner, train),
                train,
                source.splits.get("val"),
                examples=budget,
                seed=seed,
                # Ten validations: a short training must not spend most of its time on them.
                val_tasks=min(100, max(20, budget // (20 * (train.support_size + train.query_size)))),
                device=device,
                progress=None if progress is None else lambda done, of, _: progress("conventional network", done, of),
            )
            network.info |= {"key": key}
            if run is not None:
                try:
                    save_network(network, run / "baselines")
                except (RunError, ArtifactError) as error:
                    notes.append(f"the baselines' network could not be kept in the run: {error}")
        network.to(device).eval()
        kept[key, budget] = Conventional(network, _feature_statistics(network, train, device))
    return kept[key, budget], notes


def fresh_network(learner: Learner, split: TaskSplit) -> nn.Module:
    """The learner's backbone, newly initialised from torch's random state; the field's usual one where none fits."""
    shape = example_shape(split)
    try:
        network = fresh_backbone(learner)
    except UnsupportedError:
        return default_network(shape, regression=split.kind == "regression")
    fits = getattr(network, "input_shape", None) in (None, shape) and hasattr(network, "out_features")
    return network if fits else default_network(shape, regression=split.kind == "regression")


def default_network(shape: tuple[int, ...] | None, regression: bool = False) -> nn.Module:
    """Conv-4 for square images, else an MLP, which for regression ends in one value."""
    if shape is not None and len(shape) == 3 and shape[1] == shape[2] >= 16:
        return Conv4(shape[0], image_size=shape[1])
    return MLP(1 if shape is None else shape[0], out_features=1 if regression else None)


def _kept(folder: Path, spec: Mapping[str, Any], key: str, budget: int) -> PretrainedNetwork | None:
    """The network kept in a folder, where it is the one that is wanted; None otherwise, so that it is trained anew.

    Its budget may be 5% off, or a batch: a pipeline trains it before the learner has used its own up.
    """
    try:
        network = load_network(folder)
    except ArtifactError:
        return None
    info = network.info
    same = _described(network.backbone) == spec["backbone"] and info.get("seed") == spec["seed"]
    if "key" in info:
        same = info["key"] == key
    off = abs(int(info.get("examples", 0)) - budget)
    return network if same and off <= max(budget // 20, int(info.get("batch", 1))) else None


def _feature_statistics(network: PretrainedNetwork, split: TaskSplit, device: torch.device) -> FeatureStatistics:
    """Mean and variance of the features of some thousand training examples."""
    episodes = split.sample(max(1, 1000 // (split.support_size + split.query_size)), seed=0)
    x = torch.cat([first_tensor(e.x)[e.mask] for e in (episodes.support, episodes.query)])
    with torch.no_grad():
        z = torch.cat([network.features(part.to(device)) for part in x.split(256)])
    statistics = FeatureStatistics(z.shape[-1]).to(device)
    statistics(z)
    statistics.commit()
    return statistics.eval()


def _described(network: nn.Module) -> Any:
    return network.config if isinstance(network, CapturedModule) else repr(network)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
