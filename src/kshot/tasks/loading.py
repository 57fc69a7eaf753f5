"""`load`: a task source by name; `make_split`: the sampler that a split's options ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kshot.datasets.augment import Augmentation
from kshot.datasets.dataset import Dataset
from kshot.datasets.pool import Pool
from kshot.datasets.splits import SPLITS
from kshot.datasets.transform import Transform
from kshot.errors import ConfigError, DatasetNotFoundError, suggest
from kshot.tasks.cactus import GROUPING, CactusTasks
from kshot.tasks.embedding import describe
from kshot.tasks.fewshot import FewShotTasks
from kshot.tasks.functions import FAMILIES, family_options
from kshot.tasks.meta_dataset import MetaDatasetTasks
from kshot.tasks.options import Range
from kshot.tasks.pooled import PoolTasks
from kshot.tasks.regression import SPLIT_OPTIONS, FunctionTasks, make_family
from kshot.tasks.replay import ReplayTasks
from kshot.tasks.sequence_tasks import SequenceTasks, make_sequences
from kshot.tasks.sequences import SEQUENCES, sequence_options
from kshot.tasks.source import TaskSource
from kshot.tasks.umtra import UmtraTasks
from kshot.tasks.unlabeled import UNLABELED_OPTIONS
from kshot.tasks.variable import VariableTasks

SAMPLING = ("uniform", "meta_dataset")
_UNIFORM = ("way", "shot", "query", *UNLABELED_OPTIONS)
_META_DATASET = ("way", "query", "max_support", "support_per_class")
_ALL = ("sampling", *dict.fromkeys(_UNIFORM + _META_DATASET))

LABELS = ("given", "umtra", "cactus")
_UNLABELLED = {"umtra": ("way", "shot", "query", "augment"), "cactus": ("way", "shot", "query", *GROUPING)}
_TRAIN = ("labels", "augment", *GROUPING)
"""Options of training tasks alone: what a learner is selected and judged by has labels, and is as it is."""


def load(
    name_or_path: str | Path | Dataset,
    *,
    way: Range | None = None,
    shot: Range | None = None,
    query: Range | None = None,
    sampling: str | None = None,
    unlabeled: int | None = None,
    distractors: int | None = None,
    labelled: float | None = None,
    train: Mapping[str, Any] | None = None,
    val: Mapping[str, Any] | None = None,
    test: Mapping[str, Any] | None = None,
    replay: Mapping[str, Any] | None = None,
    data_dir: str | Path | None = None,
    **options: Any,
) -> TaskSource:
    """A task source by name: of a dataset's classes, or of a family of functions or sequences.

    Args:
        name_or_path: a registered dataset, the path of a folder, zip or CSV, a `kshot.datasets.Dataset`, or one of the
            families: of functions sinusoids, lines, polynomials, steps, sawtooth, gaussian_processes; of sequences
            copy, repeat_copy, associative_recall, priority_sort, which take only their own options.
        way: classes a task, 5 by default; (smallest, largest) makes tasks uneven. Ignored for functions.
        shot: support examples a class, 1 by default; (smallest, largest) likewise. For functions: points a task, 10.
        query: query examples a class, 15 by default; (smallest, largest) likewise. For functions: points a task, 10.
        sampling: "uniform", or "meta_dataset" for Meta-Dataset's rule: way (5, 50), imbalanced shots of at most
            `max_support=500` examples, at most `query=10` queries a class, and `support_per_class=100`.
        unlabeled: unlabelled examples a class, 0 by default, which a `semi_supervised` learner adapts to as well.
        distractors: classes that a task does not have, of which as many are among the unlabelled ones; 0 by default.
        labelled: share of each class's examples that may be support or query, 1 by default; the others are unlabelled.
            `labelled_seed=0` chooses them. `train={"labelled": 0.1}` for the training classes alone.
        train, val, test: options that differ in that split: `train={"way": 60, "query": 5}`, `test={"length": 40}`. For
            train alone, `augment`: another view of each image in every task ("colour", "omniglot", or ranges such as
            `{"flip": 0.5, "shift": 0.1}`); and `labels`: "given"; or "umtra" or "cactus" for tasks that are made
            without looking at the labels, with the options of `UmtraTasks` (`augment` again) or of `CactusTasks`
            (`embedding`, `clusters`, `partitions`, `cluster_seed`).
        replay: old training tasks among the new ones (`ReplayTasks`), of the same way, shot and query: the dataset, its
            options and the share of old tasks: `{"name_or_path": "omniglot", "share": 0.5}`.
        data_dir: where the data is; by default $KSHOT_DATA.
        options: of the sampling (see above), of the dataset (`kshot.datasets.info(name)`), or of the family (its
            ranges, `functions` and `noise` for functions).

    Raises:
        ConfigError: an unknown option, with the nearest right name, or a value that makes no sense.
        TooFewClassesError, TooFewExamplesError, OverlappingSplitsError: the data does not have the tasks.
        DatasetNotFoundError: no such dataset, or its files are missing.

    >>> source = load("sinusoids", shot=5, query=10)
    >>> source.train.sample(4, seed=0).support.x.shape
    torch.Size([4, 5, 1])
    """
    asked = {"way": way, "shot": shot, "query": query, "sampling": sampling, **options}
    asked |= {"unlabeled": unlabeled, "distractors": distractors, "labelled": labelled}
    asked = {name: value for name, value in asked.items() if value is not None}
    overrides = {name: dict(own) for name, own in (("train", train), ("val", val), ("test", test)) if own}
    for part in (asked, overrides.get("val", {}), overrides.get("test", {})):
        for name in _TRAIN:
            if name in part:
                why = "show examples as they are" if name == "augment" else "need the labels to be judged by"
                raise ConfigError(
                    f"{name!r} is for training tasks alone, as val and test tasks {why}: say "
                    f"train=dict({name}={_jsonable(part[name])!r})"
                )
    if replay is not None:
        return _replaying(name_or_path, replay, asked, overrides, data_dir)
    if isinstance(name_or_path, str) and name_or_path in FAMILIES:
        return _functions(name_or_path, asked, overrides)
    if isinstance(name_or_path, str) and name_or_path in SEQUENCES:
        return _sequences(name_or_path, asked, overrides)
    return _classes(name_or_path, asked, overrides, data_dir)


def make_split(pool: Pool, transform: Transform, name: str = "train", **options: Any) -> PoolTasks:
    """The sampler that the options ask for.

    `UmtraTasks` or `CactusTasks` with `labels="umtra"` or `"cactus"`, `MetaDatasetTasks` with
    `sampling="meta_dataset"`, `VariableTasks` where one of way, shot and query is a range, else `FewShotTasks`.

    Raises:
        ConfigError: an unknown option, or one that the sampling does not have.
        TooFewClassesError, TooFewExamplesError: the pool does not have the tasks.
    """
    sampling = options.pop("sampling", "uniform")
    if sampling not in SAMPLING:
        raise ConfigError(f"unknown sampling {sampling!r}. {suggest(str(sampling), SAMPLING)}")
    labels = options.pop("labels", "given")
    if labels not in LABELS:
        raise ConfigError(f"unknown labels {labels!r} for the tasks of {name}. {suggest(str(labels), LABELS)}")
    if labels != "given" and sampling != "uniform":
        raise ConfigError(
            f"labels={labels!r} makes tasks of one way, shot and query, not by sampling={sampling!r}: say "
            f"{name}=dict(sampling='uniform', ...)"
        )
    known = _UNLABELLED.get(labels) or (*(_META_DATASET if sampling == "meta_dataset" else _UNIFORM), "augment")
    kind = f"sampling={sampling!r}" if labels == "given" else f"labels={labels!r}"
    for option in options:
        if option in (*_ALL, *_TRAIN) and option not in known:
            raise ConfigError(
                f"{option!r} is no option of {kind} in {name}, which knows {', '.join(known)}: leave it out"
            )
        if option not in known:
            raise ConfigError(f"unknown option {option!r} for the tasks of {name}. {suggest(option, (*_ALL, *_TRAIN))}")
    if labels != "given":
        return (UmtraTasks if labels == "umtra" else CactusTasks)(pool, transform, name, **options)
    if sampling == "meta_dataset":
        return MetaDatasetTasks(pool, transform, name, **options)
    if any(isinstance(value, (tuple, list)) for value in options.values()):
        return VariableTasks(pool, transform, name, **{"way": 5, "shot": 1, **options})
    return FewShotTasks(pool, transform, name, **options)


def _classes(
    name_or_path: str | Path | Dataset,
    asked: dict[str, Any],
    overrides: dict[str, dict[str, Any]],
    data_dir: str | Path | None,
) -> TaskSource:
    own = {name: asked.pop(name) for name in _ALL if name in asked}
    if isinstance(name_or_path, Dataset):
        dataset = name_or_path
        for name in asked:
            raise ConfigError(f"unknown option {name!r} for the tasks of {dataset.name}. {suggest(name, _ALL)}")
    else:
        from kshot import datasets

        try:
            known = datasets.find(name_or_path)[0].options
        except DatasetNotFoundError as error:
            generated = [*FAMILIES, *SEQUENCES]
            near = get_close_matches(str(name_or_path), generated, n=1)
            if not near and "Did you mean" in str(error):
                raise
            more = f"Did you mean {near[0]!r}?" if near else f"Tasks are generated of {', '.join(generated)}"
            raise DatasetNotFoundError(f"{error}. {more}") from error
        _check_names(str(name_or_path), known, asked)
        if "at_least" in known:
            # Where classes are dealt out, each split gets as many as its tasks need.
            asked.setdefault("at_least", {name: _way_needed({**own, **overrides.get(name, {})}) for name in SPLITS})
        dataset = datasets.load(name_or_path, data_dir=data_dir, **asked)
    splits = {
        name: make_split(pool, dataset.transform, name, **{**own, **overrides.get(name, {})})
        for name, pool in dataset.splits.items()
        if len(pool)
    }
    return TaskSource(
        dataset.name,
        splits,
        transform=dataset.transform,
        example_shape=next(iter(splits.values())).example_shape,
        spec=_jsonable({**dataset.spec, **own, **overrides}),
        info=dataset.info,
    )


def _replaying(
    name_or_path: str | Path | Dataset,
    replay: Mapping[str, Any],
    asked: dict[str, Any],
    overrides: dict[str, dict[str, Any]],
    data_dir: str | Path | None,
) -> TaskSource:
    other = dict(replay)
    share, name = other.pop("share", 0.5), other.pop("name_or_path", None)
    for what in (name_or_path, name):
        if what is None or (isinstance(what, str) and what in (*FAMILIES, *SEQUENCES)):
            raise ConfigError(
                f"expected replay of a dataset among the tasks of another, got {what!r}: say "
                'replay={"name_or_path": "omniglot", "share": 0.5}'
            )
    sampling = {key: asked[key] for key in _ALL if key in asked}
    new = _classes(name_or_path, dict(asked), overrides, data_dir)
    old = _classes(name, {**other, **sampling}, {k: v for k, v in overrides.items() if k == "train"}, data_dir)
    train, before = new.train, old.train
    assert isinstance(train, PoolTasks)
    assert isinstance(before, PoolTasks)
    splits = {**new.splits, "train": ReplayTasks(train, before, share)}
    spec = {**new.spec, "replay": _jsonable({"name_or_path": name, **other, "share": share})}
    info = {**new.info, "replay": old.info}
    return TaskSource(
        f"{new.name}+{old.name}",
        splits,
        transform=new.transform,
        example_shape=new.example_shape,
        spec=spec,
        info=info,
    )


def _way_needed(options: Mapping[str, Any]) -> int:
    """The fewest classes that a split of these options can do with."""
    if options.get("labels", "given") != "given":
        return 2
    way = options.get("way", 5)
    if isinstance(way, (tuple, list)) and way:  # Meta-Dataset's rule cuts the largest way to what there is
        way = way[0] if options.get("sampling") == "meta_dataset" else way[-1]
    more = options.get("distractors", 0)
    if not isinstance(way, int) or not isinstance(more, int):
        return 2  # what is no number at all, the split refuses
    return way + max(0, more)


def _check_names(name: str, own: Iterable[str], asked: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that neither tasks nor the dataset (`own`) have: the slip may be in either's."""
    known = (*_ALL, "train", "val", "test", "data_dir", "seed", "skip_bad", *own)
    for option in asked:
        if option not in known:
            raise ConfigError(f"unknown option {option!r} for tasks of {name}. {suggest(option, known)}")


def _functions(name: str, asked: dict[str, Any], overrides: dict[str, dict[str, Any]]) -> TaskSource:
    asked.pop("way", None)
    splits = {}
    for split in ("train", "val", "test"):
        options = {**asked, **overrides.get(split, {})}
        options.pop("way", None)
        own = {key: options.pop(key) for key in SPLIT_OPTIONS if key in options}
        splits[split] = FunctionTasks(make_family(name, options), split, **own)
    return TaskSource(
        name,
        splits,
        example_shape=(1,),
        spec=_jsonable({"name_or_path": name, **asked, **overrides}),
        info={"description": (FAMILIES[name].__doc__ or "").strip(), "options": family_options(FAMILIES[name])},
    )


def _sequences(name: str, asked: dict[str, Any], overrides: dict[str, dict[str, Any]]) -> TaskSource:
    families = {
        split: make_sequences(name, {**asked, **overrides.get(split, {})}) for split in ("train", "val", "test")
    }
    widths = {split: family.width for split, family in families.items()}
    if len(set(widths.values())) > 1:
        raise ConfigError(
            f"expected vectors of one width in all splits, got {', '.join(f'{n} ({w})' for n, w in widths.items())}: "
            "a learner has as many inputs and outputs"
        )
    return TaskSource(
        name,
        {split: SequenceTasks(family, split) for split, family in families.items()},
        example_shape=(families["train"].channels,),
        spec=_jsonable({"name_or_path": name, **asked, **overrides}),
        info={"description": (SEQUENCES[name].__doc__ or "").strip(), "options": sequence_options(SEQUENCES[name])},
    )


def _jsonable(value: Any) -> Any:
    """Tuples as lists and paths as text, as JSON would give them back, and of what only Python has a description."""
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_jsonable(item) for item in value]
    if isinstance(value, Augmentation):
        return value.to_dict()
    return describe(value) if isinstance(value, Path) or callable(value) else value
