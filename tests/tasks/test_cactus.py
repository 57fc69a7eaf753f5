from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_checks import make_pool, other_classes, same
from scipy import stats
from torch import Tensor, nn

from kshot import MAML, ProtoNet, models, tasks
from kshot.datasets import Dataset, IdentityTransform, ImageTransform, Pool
from kshot.errors import ConfigError, TooFewClassesError, TooFewExamplesError
from kshot.tasks import CactusTasks, FewShotTasks
from kshot.tasks.umtra import unlabelled

TRANSFORM = ImageTransform(size=(4, 4), mean=(0.3,), std=(0.7,))


def first_pixels(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3]


def made(pool: Pool, **options: Any) -> CactusTasks:
    return CactusTasks(
        pool, TRANSFORM, **{"way": 3, "shot": 1, "query": 2, "clusters": 12, "embedding": first_pixels} | options
    )


def test_a_task_is_made_of_clusters_of_one_partition(pool: Pool) -> None:
    split = made(pool, partitions=4)
    assert split.clusters.labels.shape == (4, 160)
    of = dict(zip(unlabelled(pool).tolist(), split.clusters.labels.T.tolist(), strict=True))
    episodes = split.sample(200, seed=0)
    assert episodes.support_ids is not None
    assert episodes.query_ids is not None
    for t in range(200):
        ids = torch.cat([episodes.support_ids[t], episodes.query_ids[t]])
        y = torch.cat([episodes.support.y[t], episodes.query.y[t]])
        assert len(set(ids.tolist())) == 9, "an example twice"
        cluster = torch.tensor([of[i] for i in ids.tolist()])  # [9, partitions]
        fits = [
            all(len(set(own[y == c].tolist())) == 1 for c in range(3)) and len(set(own.tolist())) == 3
            for own in cluster.T
        ]
        assert any(fits), "no partition in which labels are clusters"
        x = torch.cat([episodes.support.x[t], episodes.query.x[t]])  # type: ignore[list-item]
        assert torch.equal(x, TRANSFORM.normalise(pool.x[ids // 4]))
    used = episodes.class_ids.flatten()
    assert used.max() < len(split.kept.size)
    assert int(episodes.class_ids.sort(1).values.diff(dim=1).min()) > 0, "one cluster twice"


def test_clusters_of_a_partition_are_uniform(pool: Pool) -> None:
    split = made(pool, partitions=2, clusters=8)
    drawn = split.sample(6000, seed=0).class_ids.flatten()
    number, counts = split.kept.number, torch.bincount(drawn, minlength=len(split.kept.size)).numpy()
    expected = np.repeat(len(drawn) / 2 / number, number)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("turned", [False, True])
def test_the_pools_classes_are_never_looked_at(turned: bool) -> None:
    pool = make_pool([30, 20, 25], turned)
    other = other_classes(make_pool([30, 20, 25]))
    if turned:
        other = other.select(torch.arange(len(other)).repeat_interleave(4))
        turns = torch.arange(4).repeat(len(other) // 4)
        other = Pool(other.x, other.start, other.count, turns, other.kin, tuple(map(str, range(len(other)))))
    a, b = (made(p, embedding="pca").sample(6, seed=1) for p in (pool, other))
    assert same(a, b)


def test_small_clusters_and_poor_partitions_are_left_out(pool: Pool) -> None:
    split = made(pool, clusters=40, query=3, partitions=3)
    assert int(split.kept.size.min()) >= 4
    sizes = [np.bincount(label, minlength=40) for label in split.clusters.labels]
    assert sorted(split.kept.size.tolist()) == sorted(n for size in sizes for n in size.tolist() if n >= 4)
    assert split.kept.number.tolist() == [int((size >= 4).sum()) for size in sizes]
    enough = sorted(int((size >= 6).sum()) for size in sizes)
    if enough[0] < enough[-1]:
        rich = split.replace(query=5, way=enough[-1])
        assert isinstance(rich, CactusTasks)
        assert len(rich.kept.number) < 3
    with pytest.raises(
        TooFewClassesError,
        match=r"at least way=3 clusters of 31 examples or more \(shot \+ query\) in train, got 0; the largest cluster "
        r"has \d+. Ask for fewer clusters",
    ):
        made(pool, clusters=40, query=30).sample(1, seed=0)


def test_a_task_is_the_same_on_any_shard(pool: Pool) -> None:
    split = made(pool, partitions=2)
    whole = split.sample(7, seed=3, step=11)
    assert same(split.sample(2, seed=3, step=11, first=4), whole[4:6])
    assert same(made(pool, partitions=2).sample(7, seed=3, step=11), whole)
    assert not same(made(pool, partitions=2, cluster_seed=1).sample(7, seed=3, step=11), whole)


def test_clusters_are_computed_once(pool: Pool) -> None:
    calls = []

    def embedding(x: Tensor) -> Tensor:
        calls.append(len(x))
        return first_pixels(x)

    split = made(pool, embedding=embedding)
    assert not calls, "only when a task is sampled"
    split.sample(2, seed=0)
    other = split.replace(shot=2, way=4)
    other.sample(2, seed=0)
    assert calls == [160]
    split.replace(clusters=5).sample(2, seed=0)
    assert calls == [160, 160]
    split.replace(labels="cactus", query=1).sample(2, seed=0)
    some = split.subset([1, 2, 3])
    drawn = some.sample(20, seed=0).support_ids
    assert drawn is not None
    assert set((drawn.flatten() // 4 // 20).tolist()) <= {1, 2, 3}
    assert calls == [160, 160, 60]


def test_another_way_to_make_the_tasks(pool: Pool) -> None:
    split = made(pool)
    assert isinstance(split.replace(labels="given"), FewShotTasks)
    assert isinstance(split.replace(embedding="pca"), CactusTasks)
    assert split.options == {
        "labels": "cactus", "way": 3, "shot": 1, "query": 2, "embedding": "<first_pixels of a script>",
        "clusters": 12, "partitions": 1, "cluster_seed": 0,
    }  # fmt: skip


def test_tables_are_clustered_as_images_are() -> None:
    centre = torch.eye(4).repeat_interleave(10, 0) * 9
    pool = Pool.from_arrays(centre + 0.01 * torch.randn(40, 4), np.zeros(40))
    split = CactusTasks(pool, IdentityTransform(), way=4, shot=2, query=3, clusters=4)
    episodes = split.sample(5, seed=0)
    for t in range(5):
        owner = torch.cat([episodes.support.x[t], episodes.query.x[t]]).argmax(1)  # type: ignore[list-item]
        y = torch.cat([episodes.support.y[t], episodes.query.y[t]])
        assert len({(a, b) for a, b in zip(owner.tolist(), y.tolist(), strict=True)}) == 4


class Counting(nn.Module):
    """A backbone that tells its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 5)
        self.modes: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.modes.add(self.training)
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


def test_a_backbone_or_a_learner_stands_for_its_features(pool: Pool, tmp_path: Path) -> None:
    backbone = Counting().train()
    made(pool, embedding=backbone).sample(1, seed=0)
    assert backbone.modes == {False}
    assert backbone.training
    learner = ProtoNet(models.Conv4(in_channels=1, image_size=16, channels=4))
    images = Pool.from_arrays(torch.arange(90 * 256).remainder(253).to(torch.uint8).view(90, 1, 16, 16), [0] * 90)
    transform = ImageTransform(size=(16, 16))
    learner.transform = transform
    learner.eval()
    learner.save_pretrained(tmp_path / "saved")
    by_features, by_learner, by_folder = (
        CactusTasks(images, transform, way=2, query=1, clusters=9, embedding=embedding)
        for embedding in (learner.features, learner, str(tmp_path / "saved"))
    )
    assert same(by_features.sample(4, seed=0), by_learner.sample(4, seed=0))
    assert same(by_features.sample(4, seed=0), by_folder.sample(4, seed=0))
    assert by_folder.options["embedding"] == str(tmp_path / "saved")
    # A learner sees examples as it was trained on them.
    bright = CactusTasks(images, ImageTransform(size=(16, 16), mean=(5.0,)), way=2, query=1, clusters=9)
    assert np.array_equal(bright.replace(embedding=learner).clusters.labels, by_learner.clusters.labels)
    with pytest.raises(ConfigError, match=r"embeds examples of shape \[1, 16, 16\], those to cluster have \[1, 4, 4\]"):
        made(pool, embedding=learner).sample(1, seed=0)


def test_what_is_no_embedding_says_so(pool: Pool) -> None:
    with pytest.raises(
        ConfigError, match=r"expected embedding to be 'pca', the folder of a run, or a function .* got 3"
    ):
        made(pool, embedding=3)
    with pytest.raises(ConfigError, match=r"unknown embedding 'pcs': expected 'pca', or the folder of a run or"):
        made(pool, embedding="pcs").sample(1, seed=0)
    with pytest.raises(ConfigError, match=r"embedding of 160 examples to be a tensor \[160, d\], got \[160\]"):
        made(pool, embedding=lambda x: x.flatten(1)[:, 0]).sample(1, seed=0)
    with pytest.raises(ConfigError, match="a MAML shares no features among tasks that could be clustered"):
        made(pool, embedding=MAML(models.MLP(16, hidden=(4,)), way=3)).sample(1, seed=0)
    told = made(pool).options["embedding"]
    with pytest.raises(ConfigError, match="<first_pixels of a script> was given in Python, and is nowhere saved"):
        made(pool, embedding=told).sample(1, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 2}, "expected clusters to be a whole number of at least 3, got 2"),
        ({"partitions": 0}, "expected partitions to be a whole number of at least 1, got 0"),
        ({"cluster_seed": -1}, "expected cluster_seed to be a whole number of at least 0, got -1"),
        ({"way": 1}, "expected way to be a whole number of at least 2, got 1"),
    ],
)
def test_numbers_that_make_no_sense(pool: Pool, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(pool, **options)


def test_more_clusters_than_examples(pool: Pool) -> None:
    with pytest.raises(TooFewExamplesError, match="at least clusters=161 examples in train, got 160: ask for fewer"):
        made(pool, clusters=161)


def test_load_by_options() -> None:
    pool = make_pool([30] * 9)
    parts = [pool.select(range(first, first + 3)) for first in (0, 3, 6)]
    data = Dataset("pictures", parts[0], parts[1], parts[2], TRANSFORM, {})
    train: dict[str, Any] = {"labels": "cactus", "way": 5, "clusters": 8, "partitions": 2}
    source = tasks.load(data, way=3, shot=1, query=2, train=train)
    assert isinstance(source.train, CactusTasks)
    assert isinstance(source.val, FewShotTasks)
    assert source.spec["train"] == train
    given = tasks.load(data, way=3, shot=1, query=2, train=train | {"embedding": first_pixels})
    assert given.spec["train"]["embedding"] == "<first_pixels of a script>"


def test_clusters_of_omniglot_say_something_of_its_characters(real_data: Path) -> None:
    train: dict[str, Any] = {"labels": "cactus", "way": 20, "query": 4, "clusters": 60}
    source = tasks.load("omniglot", query=15, rotations="none", data_dir=real_data, train=train)
    some = source.train.subset(range(0, 1028, 16))
    episodes = some.sample(200, seed=0)
    assert some.pool is not None
    assert episodes.support_ids is not None
    assert episodes.query_ids is not None
    owner = torch.searchsorted(some.pool.start, torch.arange(some.pool.x.shape[0]), right=True)
    support = owner[episodes.support_ids.gather(1, episodes.support.y.argsort(1)) // 4]
    alike = owner[episodes.query_ids // 4] == support.gather(1, episodes.query.y)
    # By chance one in 65 would be of one character.
    assert float(alike.double().mean()) > 0.1
