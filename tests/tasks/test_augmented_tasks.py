"""Training tasks that show views of their images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from episode_checks import make_pool, same
from torch import Tensor

from kshot import tasks
from kshot.datasets import Augmentation, Dataset, IdentityTransform, ImageTransform, Pool
from kshot.errors import ConfigError, DataError
from kshot.tasks import make_split
from kshot.training.pretrain import _examples

TRANSFORM = ImageTransform(size=(4, 4), mean=(0.3,), std=(0.7,))
SAMPLINGS: list[dict[str, Any]] = [
    {"way": 3, "shot": 2, "query": 2},
    {"way": 3, "shot": 1, "query": 2, "unlabeled": 2, "distractors": 1},
    {"way": (2, 4), "shot": (1, 3), "query": 2},
    {"sampling": "meta_dataset", "way": (2, 4), "query": 2, "max_support": 12},
]


@pytest.mark.parametrize("options", SAMPLINGS)
def test_a_task_shows_the_same_examples_in_other_views(pool: Pool, options: dict[str, Any]) -> None:
    as_they_are = make_split(pool, TRANSFORM, **options).sample(6, seed=0)
    flipped = make_split(pool, TRANSFORM, augment={"flip": 1.0}, **options).sample(6, seed=0)

    def expected(x: Any) -> Any:
        return x.flip(-1) if isinstance(x, Tensor) and x.ndim == 5 else x

    assert same(flipped, as_they_are.without_ids().map(expected))


def test_every_example_has_a_view_of_its_own_in_every_task(pool: Pool) -> None:
    options = {"way": 4, "shot": 2, "query": 2}
    plain = make_split(pool, TRANSFORM, **options).sample(60, seed=0)
    views = make_split(pool, TRANSFORM, augment={"flip": 0.5}, **options).sample(60, seed=0)
    assert views.support_ids is None and views.query_ids is None, "another view is another input, with other features"
    turned: dict[int, set[bool]] = {}
    for a, b, ids in (
        (plain.support.x, views.support.x, plain.support_ids),
        (plain.query.x, views.query.x, plain.query_ids),
    ):
        assert ids is not None
        for before, after, identity in zip(a.flatten(0, 1), b.flatten(0, 1), ids.flatten().tolist(), strict=True):
            is_flipped = torch.equal(after, before.flip(-1))
            assert is_flipped or torch.equal(after, before)
            turned.setdefault(identity, set()).add(is_flipped)
    assert np.mean([len(seen) == 2 for seen in turned.values()]) > 0.9, "one task shows it so, another otherwise"


@pytest.mark.parametrize("options", SAMPLINGS)
def test_a_view_is_a_function_of_the_task_alone(pool: Pool, options: dict[str, Any]) -> None:
    split = make_split(pool, TRANSFORM, augment={"shift": 0.3, "rotation": 40}, **options)
    together = split.sample(5, seed=3, step=2)
    for t in range(5):
        assert same(split.sample(1, seed=3, step=2, first=t), together[t : t + 1])


def test_another_split_made_from_it_shows_views_too(pool: Pool) -> None:
    split = make_split(pool, TRANSFORM, way=3, query=2, augment={"flip": 1.0})
    assert split.options["augment"] == {"flip": 1.0}
    assert make_split(pool, TRANSFORM, way=3, query=2, augment="omniglot").options["augment"] == "omniglot"
    plain = make_split(pool, TRANSFORM, way=3, query=2)
    for change in (lambda s: s.replace(shot=2), lambda s: s.subset(range(4))):
        a, b = change(split).sample(4, seed=0), change(plain).sample(4, seed=0)
        assert torch.equal(a.support.x, b.support.x.flip(-1))
    assert torch.equal(split.replace(augment=None).sample(2, seed=0).query.x, plain.sample(2, seed=0).query.x)


def test_a_baseline_is_trained_on_views_as_the_learner_is(pool: Pool) -> None:
    batches = [
        list(_examples(make_split(pool, TRANSFORM, way=3, query=2, **more), 16, 3, 0, torch.device("cpu")))
        for more in ({}, {"augment": Augmentation(flip=1.0)})
    ]
    for (x, y), (other, labels) in zip(*batches, strict=True):
        assert torch.equal(other, x.flip(-1)) and torch.equal(labels, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"augment": "colour"},
            r"'augment' is for training tasks alone, as val and test tasks show examples as they are",
        ),
        ({"val": {"augment": {"flip": 0.5}}}, r"training tasks alone, .*: say train=dict\(augment=\{'flip': 0.5\}\)"),
        ({"train": {"augment": "color"}}, "unknown augmentation 'color'. Did you mean 'colour'"),
        ({"train": {"augment": {"flips": 1}}}, "unknown range 'flips' of an augmentation. Did you mean 'flip'"),
        (
            {"train": {"labels": "cactus", "augment": "colour"}},
            "'augment' is no option of labels='cactus' in train, which knows way, shot, query, embedding",
        ),
    ],
)
def test_what_makes_no_sense_says_so(options: dict[str, Any], message: str) -> None:
    pool = make_pool([6] * 12)
    train, val, test = (pool.select(range(first, first + 4)) for first in (0, 4, 8))
    dataset = Dataset("pictures", train, val, test, TRANSFORM, {})
    with pytest.raises(ConfigError, match=message):
        tasks.load(dataset, way=2, query=2, **options)


def test_vectors_have_no_views() -> None:
    pool = Pool.from_arrays(torch.randn(24, 5), np.arange(24) % 4)
    with pytest.raises(
        DataError, match="expected images in train to augment, got vectors of 5 features: leave augment"
    ):
        make_split(pool, IdentityTransform(), way=2, query=2, augment="colour")
