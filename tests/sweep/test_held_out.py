"""What a sweep chooses on and what confirms it share no class, and neither is test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kshot import tasks
from kshot.datasets.pool import Pool
from kshot.datasets.transform import IdentityTransform
from kshot.errors import ConfigError
from kshot.sweep.held_out import held_out
from kshot.tasks import FewShotTasks, TaskSource


def source(val: int = 12, way: int = 5) -> TaskSource:
    splits = {}
    for name, classes in {"train": 20, "val": val, "test": 9}.items():
        x = torch.arange(classes * 8.0).view(-1, 1) + 1000 * len(name) + ord(name[0])
        pool = Pool.from_sorted(x, [8] * classes, [f"{name}{c}" for c in range(classes)])
        splits[name] = FewShotTasks(pool, IdentityTransform(), name, way=way, shot=1, query=2)
    return TaskSource("numbers", splits, example_shape=(1,), transform=IdentityTransform())


def test_val_classes_are_dealt() -> None:
    whole = source()
    halved, confirming = held_out(whole, seed=3)
    chosen, confirmed = set(halved.val.pool.names), set(confirming.pool.names)
    assert not chosen & confirmed
    assert chosen | confirmed == set(whole.val.pool.names)
    assert (len(chosen), len(confirmed)) == (6, 6)
    assert halved.test.pool.names == whole.test.pool.names
    assert halved.train.pool.names == whole.train.pool.names
    again, _ = held_out(source(), seed=3)
    assert again.val.pool.names == halved.val.pool.names
    others = {held_out(source(), seed=seed)[0].val.pool.names for seed in range(5)}
    assert len(others) > 1
    assert confirming.sample(4, seed=1).class_ids.shape == (4, 5)


def test_classes_of_a_kin_stay_together() -> None:
    plain = source(val=24)
    turned = replace(plain.val.pool, kin=torch.arange(24) // 2)  # two classes of each kind
    val = FewShotTasks(turned, IdentityTransform(), "val", way=5, shot=1, query=2)
    whole = TaskSource("numbers", {**plain.splits, "val": val}, example_shape=(1,), transform=IdentityTransform())
    halved, confirming = held_out(whole, seed=0)
    sides = [set(split.pool.kin.tolist()) for split in (halved.val, confirming)]
    assert not sides[0] & sides[1]
    assert len(halved.val.pool) + len(confirming.pool) == len(whole.val.pool)


def test_generated_tasks_have_other_functions() -> None:
    whole = tasks.load("sinusoids", shot=5, query=5)
    same, confirming = held_out(whole, seed=0)
    assert same is whole
    assert confirming is whole.val


def test_too_few_classes() -> None:
    with pytest.raises(ConfigError) as caught:
        held_out(source(val=9), seed=0)
    assert "numbers has 9 val classes" in str(caught.value)
    assert "2 x way = 10. Give val more classes, or a smaller way, or say confirm: false" in str(caught.value)
    splits = dict(source().splits)
    del splits["val"]
    with pytest.raises(ConfigError, match="numbers has no val classes to choose on"):
        held_out(TaskSource("numbers", splits, example_shape=(1,), transform=IdentityTransform()), seed=0)
