"""The conventional training that baselines start from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_toys import FEATURES, Noisy, gaussians, maml, protonet, same, sinusoids

import kshot
from kshot import models
from kshot.datasets.pool import Pool
from kshot.datasets.transform import ImageTransform
from kshot.errors import ArtifactError, DivergedError, UnsupportedError
from kshot.tasks import FewShotTasks
from kshot.training import PretrainedNetwork, fresh_backbone, load_network, pretrain, save_network
from kshot.training.pretrain import _examples
from kshot.training.validation import validate


def backbone() -> nn.Module:
    return models.MLP(FEATURES, hidden=(16,), out_features=8)


def test_a_classifier_over_the_training_classes() -> None:
    source = gaussians()
    network = pretrain(backbone, source.train, source.val, examples=6000, lr=0.01, val_tasks=100)
    untouched = kshot.ProtoNet(backbone())
    pool = source.train.pool
    assert pool is not None
    labels = torch.repeat_interleave(torch.arange(len(pool)), pool.count)
    assert network(pool.x).shape == (len(pool.x), 12)
    assert float((network(pool.x).argmax(-1) == labels).float().mean()) > 0.5
    untrained = validate(untouched, source.test, 200, mode="native").mean
    assert validate(kshot.ProtoNet(network.backbone), source.test, 200, mode="native").mean > untrained + 0.05
    assert not network.training
    assert network.info["examples"] == 6016
    assert network.info["steps"] == 94
    assert network.info["val"] == pytest.approx(
        validate(kshot.ProtoNet(network.backbone), source.val, 100, mode="native").mean
    )


def test_one_network_for_all_functions() -> None:
    source = sinusoids()
    network = pretrain(lambda: models.MLP(1, hidden=(16,), out_features=1), source.train, source.val, examples=4000)
    assert network.head is None
    assert network.info["batch"] == 60, "whole tasks"
    assert network.info["val"] < 8.0
    headed = pretrain(lambda: models.MLP(1, hidden=(16,)), source.train, examples=60)
    assert headed(torch.zeros(3, 1)).shape == (3, 1)
    assert headed.info["val"] is None


def test_the_same_seed_gives_the_same_network() -> None:
    source = gaussians()
    networks = [pretrain(Noisy, source.train, source.val, examples=300, seed=seed) for seed in (0, 0, 1)]
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])
    moved = networks[0].backbone.layers[1].running_mean
    assert not torch.equal(moved, torch.zeros_like(moved))


def test_the_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    pretrain(backbone, gaussians().train, examples=100)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("random_turns", [False, True])
def test_classes_are_turned_as_the_pool_says(random_turns: bool) -> None:
    image = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    image[0, 0, 0, 0] = 255
    pool = replace(
        Pool.from_sorted(image.repeat(4, 1, 1, 1), [2, 2], ["a", "b"]),
        turns=torch.tensor([0, 1]),
        random_turns=random_turns,
    )
    transform = ImageTransform(size=(2, 2), channels=1, mean=(0.0,), std=(1.0,))
    split = FewShotTasks(pool, transform, "train", way=2, shot=1, query=1)
    corners: dict[int, set[int]] = {0: set(), 1: set()}
    for x, y in _examples(split, 16, 4, 0, torch.device("cpu")):
        for one, label in zip(x, y.tolist(), strict=True):
            corners[label].add(int(one.flatten().argmax()))
    assert corners == ({0: {0, 1, 2, 3}, 1: {0, 1, 2, 3}} if random_turns else {0: {0}, 1: {2}})


@pytest.mark.parametrize("learner", [protonet, maml, lambda: kshot.ANIL(Noisy(), way=3)])
def test_a_fresh_backbone(learner: Any) -> None:
    made = learner()
    own = next(m for m in made.modules() if isinstance(m, models.Backbone))
    fresh = fresh_backbone(made)
    assert type(fresh) is type(own)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in own.parameters()]
    assert not same(fresh, own)


def test_a_fresh_backbone_of_a_plain_module() -> None:
    learner = kshot.ProtoNet(nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU()))
    fresh = fresh_backbone(learner)
    assert not same(fresh, learner.backbone)
    assert isinstance(fresh[0], nn.Linear)


def test_a_learner_without_a_backbone() -> None:
    class Nearest(kshot.Learner):
        pass

    with pytest.raises(UnsupportedError, match="Nearest has no backbone that a baseline could be trained with"):
        fresh_backbone(Nearest())


def test_saved_and_loaded(tmp_path: Path) -> None:
    source = gaussians()
    network = pretrain(Noisy, source.train, source.val, examples=200)
    save_network(network, tmp_path / "baselines")
    assert {p.name for p in (tmp_path / "baselines").iterdir()} == {"network.safetensors", "baseline.json"}
    loaded = load_network(tmp_path / "baselines")
    assert same(loaded, network)
    assert loaded.info == network.info
    x = torch.randn(5, FEATURES)
    assert torch.equal(loaded(x), network(x))
    assert torch.equal(loaded.features(x), network.features(x))


def test_a_network_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match="there is no baseline network in .* Remove the folder, and it is trained again"
    ):
        load_network(tmp_path)
    save_network(PretrainedNetwork(backbone(), 3), tmp_path)
    document = json.loads((tmp_path / "baseline.json").read_text())
    (tmp_path / "baseline.json").write_text(json.dumps({**document, "format": 9}))
    with pytest.raises(ArtifactError, match="has format 9, expected 1"):
        load_network(tmp_path)
    (tmp_path / "baseline.json").write_text(json.dumps({k: v for k, v in document.items() if k != "info"}))
    with pytest.raises(ArtifactError, match="lacks info"):
        load_network(tmp_path)
    with pytest.raises(ArtifactError, match=r"cannot be saved: derive it from kshot\.models\.Backbone"):
        save_network(PretrainedNetwork(nn.Linear(FEATURES, 4), None), tmp_path)


def test_one_that_diverges() -> None:
    source = sinusoids()
    with pytest.raises(DivergedError, match=r"diverged at step \d+ of \d+: try a lower lr \(it is 1e\+30\)"):
        pretrain(lambda: models.MLP(1, out_features=1), source.train, examples=2000, lr=1e30)


def test_progress() -> None:
    seen: list[tuple[int, int]] = []
    pretrain(backbone, gaussians().train, examples=200, progress=lambda done, steps, loss: seen.append((done, steps)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
