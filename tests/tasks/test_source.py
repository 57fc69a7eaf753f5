from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from episode_checks import check_episodes, make_pool, same

from kshot import tasks
from kshot.datasets import Dataset, ImageTransform, Pool, TableTransform
from kshot.datasets.transform import Column
from kshot.errors import ConfigError, OverlappingSplitsError, TooFewClassesError
from kshot.tasks import FewShotTasks, FunctionTasks, MetaDatasetTasks, TaskSource, VariableTasks
from kshot.tasks.functions import Lines

TRANSFORM = ImageTransform(size=(4, 4))


@pytest.fixture
def dataset() -> Dataset:
    pool = make_pool([20] * 18)
    train, val, test = (pool.select(range(*ends)) for ends in ((0, 8), (8, 12), (12, 18)))
    return Dataset("toy", train, val, test, TRANSFORM, info={"licence": "none"}, spec={"name_or_path": "toy"})


def test_splits_know_their_source(dataset: Dataset) -> None:
    source = tasks.load(dataset, way=4, shot=2, query=3)
    assert source.name == "toy"
    assert source.kind == "classification"
    assert source.example_shape == (1, 4, 4)
    assert source.transform is TRANSFORM
    assert source.info["licence"] == "none"
    for name in ("train", "val", "test"):
        split = getattr(source, name)
        assert split.name == name
        assert split.source is source
        assert split.replace(shot=1).source is source
        assert split.subset(range(4)).source is source
        assert isinstance(split, FewShotTasks)
        check_episodes(split.sample(3, seed=0), split.pool, TRANSFORM)
    assert repr(source).splitlines()[1] == "  <FewShotTasks toy.train: way=4, shot=2, query=3>"


def test_a_split_may_differ_from_the_others(dataset: Dataset) -> None:
    source = tasks.load(dataset, way=4, train={"way": 8, "query": 5}, test={"shot": (1, 3)})
    assert (source.train.way, source.train.shot, source.train.query) == (8, 1, 5)
    assert (source.val.way, source.val.shot, source.val.query) == (4, 1, 15)
    assert isinstance(source.test, VariableTasks)
    assert (source.test.way, source.test.shot, source.test.query) == (4, 3, 15)


def test_the_sampler_follows_from_the_options(dataset: Dataset) -> None:
    assert isinstance(tasks.load(dataset, way=(2, 4)).train, VariableTasks)
    assert isinstance(tasks.load(dataset, way=4, shot=[1, 5]).train, VariableTasks)
    split = tasks.load(dataset, way=(2, 4), sampling="meta_dataset", max_support=40).train
    assert isinstance(split, MetaDatasetTasks)
    assert split.support_size == 40
    assert isinstance(split.replace(query=2), MetaDatasetTasks)
    assert isinstance(split.subset(range(4)), MetaDatasetTasks)


def test_the_defaults_of_a_range_are_those_of_a_number(dataset: Dataset) -> None:
    split = tasks.load(dataset, way=(2, 4)).train
    assert (split.way, split.shot, split.query) == (4, 1, 15)


def test_spec_is_json_and_tells_everything(dataset: Dataset) -> None:
    source = tasks.load(dataset, way=(2, 4), shot=1, train={"shot": (1, 2)})
    assert json.loads(json.dumps(source.spec)) == source.spec
    assert source.spec == {"name_or_path": "toy", "way": [2, 4], "shot": 1, "train": {"shot": [1, 2]}}


def test_splits_that_share_a_class_are_refused() -> None:
    pool = make_pool([20] * 8)
    train, test = (FewShotTasks(pool.select(range(*ends)), TRANSFORM, way=3) for ends in ((0, 5), (4, 8)))
    with pytest.raises(OverlappingSplitsError, match="expected train and test to have no class in common.*: class4"):
        TaskSource("toy", {"train": train, "test": test}, example_shape=(1, 4, 4))


def test_turned_copies_of_a_training_class_are_no_unseen_class() -> None:
    pool = make_pool([20] * 4, turned=True)
    train, test = (FewShotTasks(pool.select(torch.arange(16) % 4 == t), TRANSFORM, way=3) for t in (0, 1))
    with pytest.raises(OverlappingSplitsError, match="one kin, such as rotations"):
        TaskSource("toy", {"train": train, "test": test}, example_shape=(1, 4, 4))


def test_a_split_without_classes_says_so_when_asked_for(dataset: Dataset) -> None:
    source = tasks.load(replace(dataset, train=dataset.train.select([]), info={}), way=4)
    assert sorted(source.splits) == ["test", "val"]
    assert source.test.way == 4
    with pytest.raises(
        TooFewClassesError, match="toy has no train classes, only val and test classes: use others; or load"
    ):
        _ = source.train


def test_too_few_classes_in_one_split_tells_how_to_ask_for_fewer(dataset: Dataset) -> None:
    with pytest.raises(
        TooFewClassesError, match=r"at least way=5 classes in val, got 4 classes.*--way 4, or .* val=dict\(way=4\)"
    ):
        tasks.load(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 3}, "unknown option 'shots' for the tasks of toy. Did you mean 'shot'?"),
        ({"train": {"wya": 3}}, "unknown option 'wya' for the tasks of train. Did you mean 'way'?"),
        ({"sampling": "metadataset"}, "unknown sampling 'metadataset'. Did you mean 'meta_dataset'?"),
        (
            {"sampling": "meta_dataset", "way": 4, "shot": 1},
            "'shot' is no option of sampling='meta_dataset' in train, which knows way, query, max_support, "
            "support_per_class, augment: leave it out",
        ),
        ({"max_support": 50}, "'max_support' is no option of sampling='uniform' in train"),
    ],
)
def test_unknown_options_are_refused_with_the_nearest(
    dataset: Dataset, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.load(dataset, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("omniglot", {"wya": 3}, "unknown option 'wya' for tasks of omniglot. Did you mean 'way'?"),
        ("omniglot", {"spilt": "vinyals"}, "unknown option 'spilt' for tasks of omniglot. Did you mean 'split'?"),
        (".", {"querry": 3}, r"unknown option 'querry' for tasks of \.. Did you mean 'query'?"),
    ],
)
def test_a_typing_error_is_found_before_the_data_is_read(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.load(name, **options)


def test_a_source_is_of_one_kind_and_has_known_splits() -> None:
    functions = FunctionTasks(Lines())
    classes = FewShotTasks(make_pool([20] * 5), TRANSFORM)
    for splits, got in [
        ({}, "got none"),
        ({"train": functions, "test": classes}, r"got train \(regression\), test \(classification\)"),
        ({"training": functions}, r"got training \(regression\)"),
    ]:
        with pytest.raises(ConfigError, match=f"expected splits named train, val or test.*{got}"):
            TaskSource("odd", splits, example_shape=(1,))


def test_tables_make_tasks(tmp_path: Path) -> None:
    pool = Pool.from_arrays(torch.randn(60, 3), torch.arange(60) % 6)
    transform = TableTransform(tuple(Column(c) for c in "abc"), (1.0, 2.0, 3.0), (0.5, 1.0, 2.0))
    train, test = pool.select(range(3)), pool.select(range(3, 6))
    source = tasks.load(Dataset("table", train, pool.select([]), test, transform), way=3, query=4)
    check_episodes(source.test.sample(3, seed=0), test, transform)
    assert source.example_shape == (3,)


def test_digits_make_tasks_and_their_spec_makes_them_again() -> None:
    source = tasks.load("digits", way=3, query=5)
    again = tasks.load(**json.loads(json.dumps(source.spec)))
    assert again.spec == source.spec
    for name, split in source.splits.items():
        assert same(split.sample(2, seed=0), again.splits[name].sample(2, seed=0))


def test_a_folder_makes_tasks_whose_splits_hold_their_way(tmp_path: Path) -> None:
    from PIL import Image

    for c in range(11):
        (tmp_path / f"class{c}").mkdir()
        for i in range(3):
            Image.new("L", (8, 8), 20 * c + i).save(tmp_path / f"class{c}" / f"{i}.png")
    source = tasks.load(tmp_path, way=3, shot=1, query=2, val={"way": (2, 4)})
    assert {name: split.way for name, split in source.splits.items()} == {"train": 3, "val": 4, "test": 3}
    assert len(source.val.pool or ()) >= 4
    again = tasks.load(**json.loads(json.dumps(source.spec)))
    assert same(source.test.sample(2, seed=0), again.test.sample(2, seed=0))


@pytest.mark.usefixtures("real_data")
def test_omniglot_makes_tasks() -> None:
    source = tasks.load("omniglot", way=5, shot=1, query=15, train={"way": 60, "query": 5})
    for split in (source.train, source.val, source.test):
        assert split.pool is not None
        assert source.transform is not None
        check_episodes(split.sample(2, seed=0), split.pool, source.transform)
    assert source.train.way == 60
