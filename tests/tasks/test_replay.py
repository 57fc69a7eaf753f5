"""Old tasks among new ones: each as it would be alone, in the share that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import kshot
from kshot.datasets.pool import Pool
from kshot.datasets.transform import ImageTransform
from kshot.errors import ConfigError, UnsupportedError
from kshot.tasks.loading import make_split
from kshot.tasks.replay import ReplayTasks


def split(seed: int, classes: int, **options: Any) -> Any:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 256, (classes * 4, 1, 8, 8), dtype=np.uint8))
    pool = Pool.from_sorted(x, [4] * classes, [f"{seed}/{c}" for c in range(classes)])
    return make_split(pool, ImageTransform(8, 1), "train", **{"way": 2, "shot": 1, "query": 2, **options})


def test_each_task_is_one_of_either_split() -> None:
    new, old = split(0, 6), split(1, 9)
    mixed = ReplayTasks(new, old, 0.25)
    assert (mixed.classes, mixed.kins, len(mixed.pool)) == (15, 15, 15)
    episodes, alone, before = (s.sample(400, seed=3, step=2) for s in (mixed, new, old))
    again = (episodes.class_ids >= 6).all(-1)
    assert bool((again | (episodes.class_ids < 6).all(-1)).all()), "no task is of both"
    assert 60 < int(again.sum()) < 140
    for of, part, shift in ((~again, alone, 0), (again, before, 6)):
        torch.testing.assert_close(episodes.support.x[of], part.support.x[of])
        torch.testing.assert_close(episodes.query.x[of], part.query.x[of])
        assert torch.equal(episodes.class_ids[of], part.class_ids[of] + shift)
    # Ids are rows of the joint pool.
    assert episodes.support_ids is not None
    rows = mixed.pool.x[episodes.support_ids // 4]
    torch.testing.assert_close(mixed.new.transform.normalise(rows), episodes.support.x)
    found, owner = mixed.labelled_rows()
    assert len(found) == 60
    assert owner.max() == 14


@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 5))
def test_a_task_is_the_same_however_it_is_sampled(first: int, tasks: int, step: int) -> None:
    mixed = ReplayTasks(split(0, 6), split(1, 9), 0.5)
    some = mixed.sample(tasks, seed=1, step=step, first=first)
    more = mixed.sample(first + tasks, seed=1, step=step)
    torch.testing.assert_close(some.support.x, more.support.x[first:])
    assert torch.equal(some.class_ids, more.class_ids[first:])


def test_what_cannot_be_mixed() -> None:
    new = split(0, 6)
    for share in (0, 1, -0.1, True, "half"):
        with pytest.raises(ConfigError, match="expected the share of old tasks between 0 and 1"):
            ReplayTasks(new, split(1, 6), share)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got way 2 and 3: give both the same way, shot and query"):
        ReplayTasks(new, split(1, 6, way=3), 0.5)
    mixed = ReplayTasks(new, split(1, 6), 0.5)
    wider = mixed.replace(way=3)
    assert isinstance(wider, ReplayTasks)
    assert (wider.way, wider.old.way, wider.share) == (3, 3, 0.5)
    with pytest.raises(UnsupportedError, match="take the subset of either"):
        mixed.subset([0])


def test_a_source_with_replay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for c in range(12):
        (tmp_path / "asked" / f"class {c}").mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(
                tmp_path / "asked" / f"class {c}" / f"{i}.png"
            )
    old = {"name_or_path": "glyphs", "examples": 4, "share": 0.3}
    sizes = {"way": 2, "shot": 1, "query": 2}
    with pytest.raises(ConfigError, match="give the new data the old one's, transform="):
        kshot.tasks.load(tmp_path / "asked", **sizes, size=28, channels=1, replay=old)
    reads = kshot.tasks.load("glyphs", examples=4, query=3).transform
    assert reads is not None
    source = kshot.tasks.load(tmp_path / "asked", **sizes, transform=reads.to_dict(), replay=old)
    assert isinstance(source.train, ReplayTasks)
    assert source.spec["replay"] == old
    again = kshot.tasks.load(**source.spec)
    assert torch.equal(again.train.sample(5, seed=0).class_ids, source.train.sample(5, seed=0).class_ids)
    assert not isinstance(source.test, ReplayTasks)
    assert source.name == "asked+glyphs"
    with pytest.raises(ConfigError, match="expected replay of a dataset among the tasks of another, got 'sinusoids'"):
        kshot.tasks.load("sinusoids", replay={"name_or_path": "digits"})
