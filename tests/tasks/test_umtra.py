from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_checks import make_pool, other_classes, same
from PIL import Image
from scipy import stats

from kshot import MAML, ProtoNet, Trainer, evaluate, models, tasks
from kshot.datasets import Augmentation, Dataset, IdentityTransform, ImageTransform, Pool
from kshot.errors import ConfigError, DataError, TooFewClassesError, TooFewExamplesError
from kshot.tasks import FewShotTasks, TaskSource, UmtraTasks
from kshot.tasks.umtra import unlabelled

TRANSFORM = ImageTransform(size=(4, 4), mean=(0.3,), std=(0.7,))
ZEROED = {"zeroed": 0.3}


def test_supports_are_images_and_queries_their_views(pool: Pool) -> None:
    split = UmtraTasks(pool, TRANSFORM, way=6, shot=1, query=3, augment=ZEROED)
    episodes = split.sample(20, seed=0)
    assert episodes.support_ids is not None
    assert episodes.query_ids is None, "a view is another one in every task"
    assert episodes.support.x.shape == (20, 6, 1, 4, 4)
    assert episodes.query.x.shape == (20, 18, 1, 4, 4)
    dark = TRANSFORM.normalise(torch.zeros(1, 1, 1, dtype=torch.uint8))
    changed: list[bool] = []
    for t in range(20):
        assert len(set(episodes.class_ids[t].tolist())) == 6
        assert torch.equal(unlabelled_of(pool)[episodes.class_ids[t][episodes.support.y[t]]], episodes.support_ids[t])
        assert episodes.query.y[t].tolist() == [c for c in range(6) for _ in range(3)]
        image = torch.zeros(6, 1, 4, 4)
        for x, y, identity in zip(episodes.support.x[t], episodes.support.y[t], episodes.support_ids[t], strict=True):
            assert torch.equal(x, TRANSFORM.normalise(pool.x[int(identity) // 4]))
            image[y] = x
        for x, y in zip(episodes.query.x[t], episodes.query.y[t], strict=True):
            changed.append(not torch.equal(x, image[y]))
            assert bool(((x == image[y]) | (x == dark)).all()), "a view of another image"
        assert len({x.numpy().tobytes() for x in episodes.query.x[t]}) == 18, "views of one image differ"
    assert np.mean(changed) > 0.95
    for part in (episodes.support, episodes.query):
        assert not part.padded
        assert part.mask.all()
        assert part.x.is_contiguous()  # type: ignore[union-attr]


def unlabelled_of(pool: Pool) -> torch.Tensor:
    return torch.from_numpy(unlabelled(pool))


@pytest.mark.parametrize("turned", [False, True])
def test_the_pools_classes_are_never_looked_at(turned: bool) -> None:
    pool = make_pool([7, 8, 9, 6], turned)
    other = other_classes(make_pool([7, 8, 9, 6]))
    if turned:
        turns = torch.arange(4).repeat(len(other))
        other = other.select(torch.arange(len(other)).repeat_interleave(4))
        other = replace(other, turns=turns, names=tuple(f"{n}/{t}" for n, t in zip(other.names, turns, strict=True)))
    options: dict[str, Any] = {"way": 5, "query": 4, "augment": "omniglot"}
    a, b = (UmtraTasks(p, TRANSFORM, **options).sample(6, seed=1) for p in (pool, other))
    assert same(a, b)


def test_images_are_drawn_uniformly() -> None:
    pool = make_pool([2, 30, 8], turned=True)
    split = UmtraTasks(pool, TRANSFORM, way=4, query=1)
    drawn = split.sample(4000, seed=0)
    assert stats.chisquare(torch.bincount(drawn.class_ids.flatten(), minlength=160).numpy()).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(drawn.support.y[:, 0]).numpy()).pvalue > 1e-3, "the support is shuffled"


def test_a_task_is_the_same_on_any_shard_and_whatever_the_queries(pool: Pool) -> None:
    split = UmtraTasks(pool, TRANSFORM, way=4, shot=2, query=3, augment="omniglot")
    whole = split.sample(7, seed=3, step=11)
    assert same(split.sample(2, seed=3, step=11, first=4), whole[4:6])
    assert same(next(iter(split.batches(7, steps=1, seed=3, start=11))), whole)
    fewer = split.replace(query=1).sample(7, seed=3, step=11)
    assert torch.equal(fewer.support.x, whole.support.x)  # type: ignore[arg-type]
    assert torch.equal(fewer.query.x, whole.query.x[:, ::3])  # type: ignore[arg-type, index]
    val = UmtraTasks(pool, TRANSFORM, "val", way=4, shot=2, query=3, augment="omniglot")
    assert not torch.equal(val.sample(7, seed=3, step=11).class_ids, whole.class_ids)


SCRIPT = """
import hashlib, torch
from kshot.datasets import ImageTransform, Pool
from kshot.tasks import UmtraTasks
x = torch.arange(60 * 100).remainder(251).to(torch.uint8).view(60, 1, 10, 10)
pool = Pool.from_sorted(x, [20, 40], ["a", "b"])
episodes = UmtraTasks(pool, ImageTransform(size=(10, 10)), way=3, shot=2, query=2).sample(3, seed=5)
print(hashlib.sha256(episodes.support.x.numpy().tobytes() + episodes.query.x.numpy().tobytes()).hexdigest())
"""


def test_another_process_draws_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SCRIPT, {})
    there = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert capsys.readouterr().out == there.stdout


def test_more_shots_are_the_image_and_its_views(pool: Pool) -> None:
    episodes = UmtraTasks(pool, TRANSFORM, way=4, shot=3, query=2, augment=ZEROED).sample(5, seed=0)
    assert episodes.support_ids is None
    images = TRANSFORM.normalise(pool.x)
    dark = float(TRANSFORM.normalise(torch.zeros(1, 1, 1, dtype=torch.uint8)))
    for t in range(5):
        for label in range(4):
            own = episodes.support.x[t][episodes.support.y[t] == label]  # type: ignore[index]
            whole = images[unlabelled_of(pool)[episodes.class_ids[t, label]] // 4]
            assert len(own) == 3
            assert bool((own == whole).flatten(1).all(1).any())
            assert bool(((own == whole) | (own == dark)).all())


def test_random_turns_turn_an_image_and_its_views_alike() -> None:
    pool = replace(make_pool([9, 9]), random_turns=True)
    episodes = UmtraTasks(pool, TRANSFORM, way=3, query=2, augment={}).sample(300, seed=0)
    assert episodes.support_ids is not None
    turns = episodes.support_ids.flatten() % 4
    assert stats.chisquare(torch.bincount(turns, minlength=4).numpy()).pvalue > 1e-3
    for t in range(20):
        for x, y, identity in zip(episodes.support.x[t], episodes.support.y[t], episodes.support_ids[t], strict=True):
            seen = torch.rot90(pool.x[int(identity) // 4], int(identity) % 4, (-2, -1))
            assert torch.equal(x, TRANSFORM.normalise(seen))
            assert all(torch.equal(x, q) for q in episodes.query.x[t][episodes.query.y[t] == y])  # type: ignore[index]


def test_replace_and_subset(pool: Pool) -> None:
    split = UmtraTasks(pool, TRANSFORM, way=3, query=2, augment=ZEROED)
    assert not split.has_labels
    more = split.replace(way=20, augment="omniglot")
    assert isinstance(more, UmtraTasks)
    assert (more.way, more.query, more.options["augment"]) == (20, 2, "omniglot")
    assert split.replace(query=3).options["augment"] == ZEROED
    labelled = split.replace(labels="given", query=4)
    assert isinstance(labelled, FewShotTasks)
    assert (labelled.way, labelled.shot, labelled.query) == (3, 1, 4)
    assert isinstance(labelled.replace(labels="umtra"), UmtraTasks)
    some = split.subset([2, 5])
    drawn = some.sample(30, seed=0).support_ids
    assert isinstance(some, UmtraTasks)
    assert drawn is not None
    assert set((drawn.flatten() // 4 // 20).tolist()) == {2, 5}
    assert repr(split) == "<UmtraTasks train: labels=umtra, way=3, shot=1, query=2, augment={'zeroed': 0.3}>"


def test_the_usual_augmentation_follows_from_the_channels(pool: Pool) -> None:
    assert UmtraTasks(pool, TRANSFORM).options["augment"] == "omniglot"
    coloured = ImageTransform(size=(4, 4), channels=3)
    split = UmtraTasks(make_pool([20], channels=3), coloured, query=2)
    assert split.options["augment"] == "colour"
    assert split.sample(2, seed=0).query.x.shape == (2, 10, 3, 4, 4)  # type: ignore[union-attr]


def test_what_umtra_cannot_do_says_so(pool: Pool) -> None:
    table = Pool.from_arrays(torch.randn(30, 7), np.arange(30) % 5)
    with pytest.raises(DataError, match=r"expected images in train, .* got vectors of 7 features: use labels='cactus'"):
        UmtraTasks(table, IdentityTransform())
    with pytest.raises(TooFewExamplesError, match=r"at least way=200 images in train, .* got 160: add images, or use"):
        UmtraTasks(pool, TRANSFORM, way=200)
    with pytest.raises(ConfigError, match="unknown augmentation 'color'. Did you mean 'colour'"):
        UmtraTasks(pool, TRANSFORM, augment="color")
    with pytest.raises(ConfigError, match="expected way to be a whole number of at least 2, got \\(3, 5\\)"):
        UmtraTasks(pool, TRANSFORM, way=(3, 5))  # type: ignore[arg-type]


def dataset(counts: int = 12) -> Dataset:
    pool = make_pool([20] * counts)
    parts = [pool.select(range(first, first + counts // 3)) for first in range(0, counts, counts // 3)]
    return Dataset("pictures", parts[0], parts[1], parts[2], TRANSFORM, {})


def test_load_makes_training_tasks_without_labels() -> None:
    source = tasks.load(
        dataset(), way=3, shot=1, query=2, train={"labels": "umtra", "way": 10, "augment": Augmentation(zeroed=0.5)}
    )
    assert isinstance(source.train, UmtraTasks)
    assert isinstance(source.val, FewShotTasks)
    assert isinstance(source.test, FewShotTasks)
    assert source.train.way == 10
    assert source.spec["train"] == {"labels": "umtra", "way": 10, "augment": {"zeroed": 0.5}}
    again = tasks.load(dataset(), **{k: v for k, v in source.spec.items() if k in ("way", "shot", "query", "train")})
    assert same(again.train.sample(2, seed=0), source.train.sample(2, seed=0))
    assert source.train.source is source


def test_classes_are_dealt_out_for_the_labelled_tasks_alone(tmp_path: Path) -> None:
    for c in range(6):
        (tmp_path / f"class{c}").mkdir()
        for i, image in enumerate(make_pool([4], seed=c).x):
            Image.fromarray(image[0].numpy()).save(tmp_path / f"class{c}" / f"{i}.png")
    source = tasks.load(tmp_path, way=2, shot=1, query=3, size=8, train={"labels": "umtra", "way": 8})
    assert source.train.way == 8
    assert [len(split.pool or ()) for split in source.splits.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "umtra"}, r"'labels' is for training tasks alone, .*: say train=dict\(labels='umtra'\)"),
        ({"test": {"augment": "colour"}}, r"'augment' is for training tasks alone, .* train=dict\(augment='colour'\)"),
        ({"train": {"labels": "utmra"}}, "unknown labels 'utmra' for the tasks of train. Did you mean 'umtra'"),
        ({"train": {"labels": True}}, "unknown labels True for the tasks of train. Known: cactus, given, umtra"),
        ({"train": {"clusters": 5}}, "'clusters' is no option of sampling='uniform' in train, which knows way"),
        (
            {"train": {"labels": "umtra", "clusters": 5}},
            "'clusters' is no option of labels='umtra' in train, which knows way, shot, query, augment: leave it out",
        ),
        ({"train": {"labels": "umtra", "augmet": "x"}}, "unknown option 'augmet' .* Did you mean 'augment'"),
        (
            {"sampling": "meta_dataset", "train": {"labels": "umtra"}},
            r"labels='umtra' makes tasks of one way, shot and query, not by sampling='meta_dataset': "
            r"say train=dict\(sampling='uniform'",
        ),
    ],
)
def test_options_that_do_not_fit_say_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.load(dataset(), **{"query": 2, "way": 2} | options)


def small(learner: str) -> ProtoNet | MAML:
    backbone = models.Conv4(in_channels=1, image_size=4, channels=8, pools=2)
    return ProtoNet(backbone) if learner == "protonet" else MAML(backbone, way=5, inner_lr=0.1, inner_steps=2)


@pytest.mark.parametrize("learner", ["protonet", "maml"])
@pytest.mark.parametrize("labels", ["umtra", "cactus"])
def test_any_learner_trains_on_them(learner: str, labels: str) -> None:
    own: dict[str, Any] = {"augment": "omniglot"} if labels == "umtra" else {"clusters": 10, "partitions": 2}
    source = tasks.load(dataset(), way=2, shot=1, query=3, train={"labels": labels, "way": 4, **own})
    result = Trainer(small(learner), source, steps=3, meta_batch=2, val_tasks=4, progress=False).fit()
    assert result.steps == 3
    assert result.val is not None
    # Reports name no classes of training tasks, whose ids are not the pool's.
    assert evaluate(result.learner, source.train, tasks=4, baselines=False, allow_seen=True).class_names == ()


def test_a_source_keeps_its_splits_apart(pool: Pool) -> None:
    train, test = UmtraTasks(pool.select([0, 1]), TRANSFORM, way=5), FewShotTasks(pool.select([1, 2]), TRANSFORM, way=2)
    with pytest.raises(DataError, match="have no class in common"):
        TaskSource("pictures", {"train": train, "test": test}, example_shape=(1, 4, 4))
    with pytest.raises(TooFewClassesError, match="has no val classes"):
        _ = TaskSource("pictures", {"train": train}, example_shape=(1, 4, 4)).val


def test_omniglot_without_labels(real_data: Path) -> None:
    train: dict[str, Any] = {"labels": "umtra", "way": 60, "query": 2, "augment": "omniglot"}
    source = tasks.load("omniglot", way=5, shot=1, query=15, data_dir=real_data, train=train)
    assert isinstance(source.train, UmtraTasks)
    assert len(unlabelled(source.train.pool)) == 4 * 1028 * 20
    episodes = source.train.sample(2, seed=0)
    assert episodes.query.x.shape == (2, 120, 1, 28, 28)  # type: ignore[union-attr]
    # A view is nearer to its own image than to most others.
    own = episodes.support.x[0][episodes.support.y[0].argsort()].flatten(1)  # type: ignore[index]
    distance = torch.cdist(episodes.query.x[0].flatten(1), own)  # type: ignore[index]
    rank = (distance < distance.gather(1, episodes.query.y[0][:, None])).sum(1)
    assert float(rank.double().mean()) < 25, "by chance 29.5"
    assert source.val.has_labels
    assert set(source.train.source.test.pool.names).isdisjoint(source.train.pool.names)  # type: ignore[union-attr]
