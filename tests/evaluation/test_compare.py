"""Comparisons: who takes part, equal budgets, one order, and that nothing is done twice."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_sources import pools, vector_source

import kshot
from kshot.datasets import IdentityTransform, ImageTransform, Pool
from kshot.errors import ConfigError, KshotError, RunError, TooFewClassesError, UnsupportedError
from kshot.evaluation import Comparison, compare, contestants, iter_compare, timed
from kshot.evaluation.comparison import Compared, LeftOut
from kshot.evaluation.comparison_plot import figure
from kshot.evaluation.contestants import build, meta_batch, suited
from kshot.evaluation.costs import adaptation_cost
from kshot.metrics import paired_difference
from kshot.tasks import TaskSource, make_split
from kshot.training.config import build_trainer

QUICK: dict[str, Any] = {
    "budget_seconds": 0.05,
    "tasks": 12,
    "val_tasks": 4,
    "backbone": {"name": "mlp", "hidden": [8]},
}


PAIRS = {"val": [2, 3], "test": [4, 5]}


def built(choice: contestants.Choice, source: TaskSource, **training: Any) -> contestants.Built:
    return build(contestants.contestants([choice])[0], source, QUICK["backbone"], training)


# ---------------------------------------------------------------- who takes part


def test_a_learner_with_options():
    one, two, three = contestants.contestants(
        ["protonet", "MAML,inner_lr=4e-1,train.way=3", {"name": "anil", "training": {"lr": 0.01}}]
    )
    assert one == contestants.Contestant("ProtoNet", {"name": "protonet"})
    assert two.label == "MAML inner_lr=0.4, train.way=3"
    assert two.train == {"way": 3}
    assert three.training == {"lr": 0.01}
    listed = contestants.contestants(["snail,sizes=[[4, 2], [4, 2], [4, 2]],filters=8"])[0]
    assert listed.learner == {"name": "snail", "sizes": [[4, 2], [4, 2], [4, 2]], "filters": 8}


def test_all_of_them_by_default():
    from kshot.learners import all_learners

    found = contestants.contestants()
    assert [one.learner["name"] for one in found] == [*all_learners(), "maml", "maml", "finetuning"]
    assert [one.label for one in found][-3:] == ["FOMAML", "MAML++", "HeadTuning"]
    assert contestants.contestants(["fomaml,inner_lr=0.4"])[0] == contestants.Contestant(
        "FOMAML inner_lr=0.4", {"name": "maml", "order": 1, "inner_lr": 0.4}
    )


@pytest.mark.parametrize("one", contestants.contestants(), ids=lambda one: one.label)
def test_every_one_of_them_can_be_built_for_images(one: contestants.Contestant):
    source = kshot.tasks.load("glyphs", way=5, shot=1, query=5)
    if one.label == "NTM":
        message = r"this NTM does sequence, the tasks of train are classification: use a classifier \(ProtoNet"
        with pytest.raises(KshotError, match=message):
            contestants.build(one, source, None, {})
        return
    built = contestants.build(one, source, {"name": "conv4", "channels": 4}, {})
    losses = built.learner(built.source.train.sample(1, seed=0), mode="loop")
    assert torch.isfinite(losses).all()


@pytest.fixture(scope="module", params=["umtra", "cactus"])
def unlabelled(request: pytest.FixtureRequest) -> TaskSource:
    """Two classes of images, and more classes of tasks: images, or clusters of them."""
    x = torch.randint(256, (180, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pool, transform = Pool.from_arrays(x, np.arange(180) % 6), ImageTransform(size=(28, 28), mean=(0.5,), std=(0.5,))
    options: dict[str, Any] = {"umtra": {}, "cactus": {"clusters": 12}}[request.param]
    train = make_split(pool.select([0, 1]), transform, labels=request.param, way=2, query=1, **options)
    others = {name: make_split(pool.select(c), transform, name, way=2, query=1) for name, c in PAIRS.items()}
    return TaskSource("heap", {"train": train, **others}, example_shape=(1, 28, 28), transform=transform)


@pytest.mark.parametrize("one", contestants.contestants(), ids=lambda one: one.label)
def test_every_one_of_them_trains_on_tasks_without_labels(one: contestants.Contestant, unlabelled: TaskSource):
    """To a conventional classifier each image, or each cluster, is a class: more of them than the pool has."""
    if one.label == "NTM":
        return  # of sequences
    assert unlabelled.train.classes > len(unlabelled.train.pool) == 2
    built = contestants.build(one, unlabelled, {"name": "conv4", "channels": 4}, {})
    losses = built.learner(built.source.train.sample(4, seed=0), mode="loop")
    assert torch.isfinite(losses).all()


def test_mamlplusplus_has_no_norms_to_learn_on_vectors(clouds: TaskSource):
    built = contestants.build(contestants.contestants(["maml++"])[0], clouds, None, {})
    assert built.learner.step_norms is None and built.learner.rates is not None


@pytest.mark.parametrize(
    ("learners", "message"),
    [
        (["protone"], "unknown learner 'protone'. Did you mean 'protonet'?"),
        (["maml,inner_rl=1"], "unknown key learner.inner_rl for MAML. Did you mean 'inner_lr'?"),
        (["maml,inner_lr=much"], "learner.inner_lr: expected a number, got 'much'"),
        (["maml,training.rl=1"], "unknown key training.rl"),
        (["maml,training.steps=5"], "steps follows from the budget: leave out training.steps"),
        (["maml", "maml"], "MAML is there twice"),
        (["fomalm"], "unknown learner 'fomalm'. Did you mean 'fomaml'?"),
        (["headtunning"], "unknown learner 'headtunning'. Did you mean 'headtuning'?"),
        (["fomaml,order=2"], "FOMAML is maml with order=1, got order=2: leave it out, or name maml"),
        ([{"name": "maml", "train": 5}], "expected train to hold keys of its own, got 5"),
        ([], "expected at least one learner to compare, got none"),
    ],
)
def test_a_slip_is_told_before_anything_is_trained(clouds: TaskSource, learners: Any, message: str):
    trained: list[str] = []
    with pytest.raises(ConfigError) as caught:
        compare(clouds, ["protonet", *learners] if learners else [], **QUICK, progress=lambda *a: trained.append(a[0]))
    assert message in str(caught.value)
    assert not trained


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget_seconds": 0}, "expected a budget of more than 0 seconds of training, got 0"),
        ({"budget_seconds": -1}, "expected a budget of more than 0 seconds of training, got -1"),
        ({"tasks": 1}, "expected tasks to be at least 2"),
        ({"device": "gpu0"}, "expected a device such as"),
    ],
)
def test_impossible_settings(clouds: TaskSource, change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        compare(clouds, ["protonet"], **{**QUICK, **change})


def test_data_without_val_tasks(clouds: TaskSource):
    without = TaskSource("clouds", {"train": clouds.train, "test": clouds.test}, example_shape=clouds.example_shape)
    with pytest.raises(TooFewClassesError, match="clouds has no val classes"):
        compare(without, ["protonet"], **QUICK)


def test_no_learner_is_left(sinusoids: TaskSource):
    with pytest.raises(UnsupportedError) as caught:
        compare(sinusoids, ["protonet", "matchingnet"], **QUICK)
    assert str(caught.value).startswith(
        "none of the learners could be compared on sinusoids. Left out: ProtoNet, MatchingNet: does classification, "
        "the tasks of train are regression"
    )


# ---------------------------------------------------------------- their train tasks


def test_without_a_fixed_head_train_tasks_are_wide(clouds: TaskSource):
    for name in ("protonet", "simpleshot", "cnaps"):
        made = built(name, clouds)
        assert made.source.train.options == {"way": 24, "shot": 1, "query": 1}, "all classes that there are"
        assert made.config.training.meta_batch == 500 // 48
        assert made.source.test.options == clouds.test.options
    wide = TaskSource("few", clouds.splits, example_shape=(1, 16, 16))  # as if images
    assert suited(built("protonet", clouds).learner, wide, {}).train.way == 24
    assert meta_batch(built("protonet", clouds).learner, wide) == 4


def test_with_a_fixed_head_they_are_as_wide_as_those_of_the_test(clouds: TaskSource):
    made = built("maml", vector_source(query=10))
    assert made.source.train.options == {"way": 5, "shot": 1, "query": 5}
    assert made.config.training.meta_batch == 500 // 30
    assert made.learner.way == 5
    wide = contestants.with_train(clouds, {"way": 20})
    assert built("maml", wide).learner.way == 5, "a wider head is of no use"
    assert built("protonet", wide).source.train.way == 20, "what the data's own options say stays"


def test_inner_loops_for_classes(clouds: TaskSource, sinusoids: TaskSource):
    def loop(choice: contestants.Choice, source: TaskSource) -> tuple[float, int]:
        options = built(choice, source).learner
        return options.inner_lr, options.inner_steps

    assert loop("maml", clouds) == (0.1, 5)
    assert loop("maml", sinusoids) == (0.01, 1), "the default is for these"
    assert loop("maml,inner_lr=0.4", clouds) == (0.4, 1), "whoever says one of both has thought of it"
    assert built("alfa", clouds).learner.rates.detach().mean() == pytest.approx(0.1)
    assert loop("reptile", clouds) == (0.001, 5)


def test_reptile_learns_from_support_alone(clouds: TaskSource):
    made = built("reptile", clouds)
    assert made.source.train.options == {"way": 5, "shot": 5, "query": 1}
    assert (made.config.training.optimizer, made.config.training.lr) == ("sgd", 1.0)
    assert built("reptile", clouds, lr=0.005).config.training.lr == 1.0, "a rate for Adam is not meant for it"
    own = built({"name": "reptile", "training": {"lr": 0.5}}, clouds, lr=0.005)
    assert own.config.training.lr == 0.5


def test_what_was_asked_for_comes_before_the_rule(clouds: TaskSource):
    made = built(
        {"name": "protonet", "train": {"way": 7}, "training": {"meta_batch": 3}}, clouds, lr=0.01, meta_batch=5
    )
    assert made.source.train.options == {"way": 7, "shot": 1, "query": 1}
    assert (made.config.training.meta_batch, made.config.training.lr) == (3, 0.01)


def test_uneven_tasks_stay_as_they_are():
    splits = {n: make_split(p, IdentityTransform(), n, way=(2, 4), shot=1, query=2) for n, p in pools().items()}
    source = TaskSource("uneven", splits, example_shape=(8,))
    assert built("protonet", source).source.train.options["way"] == (2, 4)
    assert built("maml", source).learner.way == 4


def test_regression(sinusoids: TaskSource):
    made = built("ridgenet", sinusoids)
    assert made.source.train.options == sinusoids.train.options
    assert made.config.training.meta_batch == 500 // 15
    assert made.learner.outputs == "values"


# ---------------------------------------------------------------- an equal budget


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a tenth of a second whenever it is looked at, which is once a step."""
    ticks = itertools.count()
    monkeypatch.setattr(timed, "perf_counter", lambda: next(ticks) / 10)


@pytest.mark.parametrize(
    ("pace", "validated"), [(0.1, [0, 2, 4, 6, 8, 10, 12]), (0.2, list(range(13))), (0.05, [0, 4, 8, 12])]
)
def test_every_training_takes_its_budget(
    clouds: TaskSource, ticking: None, monkeypatch: pytest.MonkeyPatch, pace: float, validated: list[int]
):
    """Also where the pace was misjudged: of twelve steps that are a tenth of a second each."""
    monkeypatch.setattr(timed, "_pace", lambda *_: pace)
    progress: list[tuple[str, int, int]] = []
    found = timed.train_for(1.2, built("protonet", clouds), val_tasks=4, progress=lambda *a: progress.append(a))
    assert found.steps == 12
    assert found.seconds == pytest.approx(1.2)
    assert [point.step for point in found.curve] == validated
    assert [point.seconds for point in found.curve] == pytest.approx([step / 10 for step in validated])
    assert found.peak_bytes
    assert progress[0] == ("% of training", 8, 100)
    assert progress[-1][1] in (99, 100)


def test_the_schedule_ends_with_the_budget():
    weight = torch.nn.Parameter(torch.zeros(1))
    clock = timed.Clock(limit=2.0)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = timed.over_time("cosine", clock, 100, 0)(optimizer, 0)
    rates = []
    for spent in (0.0, 0.5, 1.0, 1.5, 2.0, 2.1):
        clock.spent = spent
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5, 0.0, 0.0], abs=1e-6)


def test_there_is_at_least_one_step(clouds: TaskSource, ticking: None):
    assert timed.train_for(1e-6, built("protonet", clouds), val_tasks=4).steps == 1


def test_measuring_leaves_no_trace(clouds: TaskSource, ticking: None):
    """The learner is the one that as many steps give without any measuring."""
    for name in ("maml", "simpleshot"):
        one, other = (built(name, clouds, schedule="constant") for _ in range(2))
        found = timed.train_for(1.2, one, val_tasks=4, device="cpu")
        build_trainer(
            other.config, other.learner, other.source, steps=found.steps, mode=found.mode, device="cpu", progress=False,
            val_every=2, val_tasks=4,
        ).fit()  # fmt: skip
        for key, value in one.learner.state_dict().items():
            assert torch.equal(value, other.learner.state_dict()[key]), (name, key)


def test_what_an_adaptation_costs(clouds: TaskSource):
    learner = built("protonet", clouds).learner
    assert adaptation_cost(learner, clouds.test).bytes == 5 * learner.backbone.out_features * 4
    assert learner.training, "it is left in its mode"


# ---------------------------------------------------------------- the comparison


@pytest.fixture(scope="module")
def comparison(clouds: TaskSource, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("comparison")
    quick = {**QUICK, "budget_seconds": 0.3}
    return compare(clouds, ["maml", "protonet,scale=0.1", "lstmlearner", "snail,max_support=3"], out=out, **quick), out


def test_the_best_comes_first(comparison: tuple[Comparison, Path]):
    found, _ = comparison
    means = [one.interval.mean for one in found.results]
    assert len(means) == 3
    assert means == sorted(means, reverse=True)
    assert found.to_the_best(found.results[0]) is None
    gap = found.to_the_best(found.results[2])
    assert gap == paired_difference(found.results[2].scores, found.results[0].scores)
    assert gap is not None
    assert gap.mean <= 0
    assert found.left_out == [LeftOut("SNAIL max_support=3", found.left_out[0].reason)]
    assert "max_support" in found.left_out[0].reason


def test_less_error_comes_first(sinusoids: TaskSource):
    found = compare(sinusoids, ["cnp", "maml"], **QUICK)
    means = [one.interval.mean for one in found.results]
    assert found.metric == "mse"
    assert means == sorted(means)
    assert "less is better" in str(found)


def test_what_is_said(comparison: tuple[Comparison, Path]):
    found, out = comparison
    text = str(found)
    assert text.startswith("3 learners, 300 ms of training each, on the same 12 unseen tasks of clouds (test, 5-way 1-")
    for word in ("to the best", "trained", "steps", "adapt", "a task", "peak of a step", "Guessing: 20.00."):
        assert word in text
    assert "Left out: SNAIL max_support=3: " in text
    table = [line for line in found.to_markdown().splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    assert len({line.count("|") for line in table}) == 1
    assert found.plot(out / "plot.png").read_bytes().startswith(b"\x89PNG")
    drawn = figure(found)
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in drawn.axes]
    assert labels == [
        ("seconds of training", "accuracy % on val tasks"),
        ("milliseconds of an adaptation", "accuracy % on test tasks"),
        ("megabytes at the peak of an outer step", "accuracy % on test tasks"),
    ]
    training, adapting, memory = drawn.axes
    assert [line.get_label()[3:] for line in training.lines] == [one.name for one in found.results]
    for line, one in zip(training.lines, found.results, strict=True):
        assert line.get_xdata().tolist() == [point["seconds"] for point in one.curve]
        assert line.get_ydata().tolist() == pytest.approx([100 * point["mean"] for point in one.curve])
    for axes, costs in (
        (adapting, [1000 * one.adapt_seconds for one in found.results]),
        (memory, [one.peak_bytes / 1e6 for one in found.results]),
    ):
        points = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
        assert points == [
            pytest.approx([c, 100 * one.interval.mean]) for c, one in zip(costs, found.results, strict=True)
        ]
    many = figure(
        replace(found, results=[replace(found.results[0], label=f"InContextTransformer {i}") for i in range(31)])
    )
    many.draw_without_rendering()
    [legend] = many.legends
    box, page = legend.get_window_extent(), many.bbox
    assert len(legend.get_texts()) == 31
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.width and box.y1 <= page.height
    marked = Comparison([replace(found.results[0], transductive=True)])
    assert f"{found.results[0].label} (transductive)" in str(marked)
    assert "not comparable with inductive numbers" in str(marked)


def test_json(comparison: tuple[Comparison, Path]):
    content = json.loads(json.dumps(comparison[0].to_dict(), allow_nan=False))
    best, second, _ = content["results"]
    assert best["to_the_best"] is None
    assert second["to_the_best"]["n"] == 12
    for key in ("mean", "half_width", "seconds", "steps", "adapt_seconds", "task_bytes", "peak_bytes", "curve"):
        assert key in best
    assert content["settings"]["budget_seconds"] == 0.3
    assert content["left_out"][0]["label"] == "SNAIL max_support=3"


def test_what_is_done_is_not_done_again(comparison: tuple[Comparison, Path], clouds: TaskSource):
    found, out = comparison
    said: list[str] = []
    quick = {**QUICK, "budget_seconds": 0.3, "out": out, "progress": lambda *a: said.append(a[0])}
    again = compare(clouds, ["maml", "protonet,scale=0.1"], **quick)
    assert not said
    kept = [one for one in found.results if one.label != "LSTMLearner"]
    assert [one.to_dict() for one in again.results] == [one.to_dict() for one in kept]
    compare(clouds, ["protonet,scale=0.1"], **{**quick, "seed": 1})
    assert said, "with other settings it is another result"
    assert len(list((out / "results").iterdir())) == 4
    assert len(list((out / "learners").iterdir())) == 4


def test_a_comparison_that_was_broken_off(clouds: TaskSource, tmp_path: Path):
    def stop(what: str, done: int, of: int) -> None:
        if what.startswith("MatchingNet"):
            raise KeyboardInterrupt

    learners = ["protonet", "matchingnet"]
    with pytest.raises(KeyboardInterrupt):
        compare(clouds, learners, out=tmp_path, progress=stop, **QUICK)
    (kept,) = (tmp_path / "results").iterdir()
    before = kept.read_text()
    first, second = iter_compare(clouds, learners, out=tmp_path, **QUICK)
    assert isinstance(first, Compared)
    assert isinstance(second, Compared)
    assert kept.read_text() == before
    assert json.loads(before)["seconds"] == first.seconds
    kept.write_text(before[:50])
    again = next(iter_compare(clouds, learners, out=tmp_path, **QUICK))
    assert isinstance(again, Compared), "a damaged result is done again"
    assert json.loads(kept.read_text())["label"] == "ProtoNet"


def test_the_learners_are_kept(comparison: tuple[Comparison, Path], clouds: TaskSource):
    found, out = comparison
    (folder,) = (out / "learners").glob("lstmlearner-*")
    learner = kshot.Learner.from_pretrained(folder)
    scores = kshot.evaluate(learner, clouds.test, 12, baselines=False).scores
    (kept,) = (one for one in found.results if one.label == "LSTMLearner")
    assert scores.tolist() == pytest.approx(kept.scores)


def test_a_learner_that_diverges_is_left_out(clouds: TaskSource):
    first, second = iter_compare(clouds, ["maml,inner_lr=1e30", "protonet"], **QUICK)
    assert isinstance(first, LeftOut)
    assert "not finite" in first.reason
    assert isinstance(second, Compared)


def test_a_folder_that_cannot_be_written_is_told_first(clouds: TaskSource, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        compare(clouds, ["protonet"], out=tmp_path / "file", **QUICK)
