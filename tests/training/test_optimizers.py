"""Optimizers and schedules by name, by options, and as the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_toys import fit, gaussians, protonet, same

from kshot.errors import ConfigError
from kshot.training.optimizers import make_optimizer, make_schedule, optimizer_names


def rates(choice: Any, steps: int, warmup: int = 0) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = make_schedule(choice, optimizer, steps, warmup)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules() -> None:
    cosine = rates("cosine", 100)
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5)
    assert 0 < cosine[-1] < 0.001
    assert cosine == sorted(cosine, reverse=True)
    assert rates("linear", 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates("linear", 6, warmup=2) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    assert rates("constant", 3) == [1.0] * 3
    assert rates("step", 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates({"name": "step", "every": 2, "factor": 0.5}, 5) == [1, 1, 0.5, 0.5, 0.25]
    assert rates("constant", 4, warmup=2) == [0.5, 1.0, 1.0, 1.0]
    warmed = rates("cosine", 12, warmup=4)
    assert warmed[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert 0 < warmed[-1] < 0.05


def test_the_schedule_is_used() -> None:
    result = fit(protonet(), gaussians(), lr=0.1, schedule="cosine", steps=4)
    assert [row["lr"] for row in result.history] == pytest.approx([0.1 * rate for rate in rates("cosine", 4)])


def test_optimizers_by_name_and_options() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    assert isinstance(make_optimizer("adamw", parameters, 0.1), torch.optim.AdamW)
    made = make_optimizer({"name": "sgd", "momentum": 0.9}, parameters, 0.1)
    assert made.param_groups[0]["momentum"] == 0.9
    assert made.param_groups[0]["lr"] == 0.1
    assert {"adam", "adamw", "sgd", "rmsprop"} <= set(optimizer_names())
    assert "lbfgs" not in optimizer_names()
    assert "optimizer" not in optimizer_names()


def test_an_optimizer_of_ones_own() -> None:
    learners = [protonet() for _ in range(3)]
    made = torch.optim.SGD(learners[0].parameters(), lr=0.1, momentum=0.5)
    fit(learners[0], gaussians(), optimizer=made)
    fit(learners[1], gaussians(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5))
    fit(learners[2], gaussians(), optimizer={"name": "sgd", "momentum": 0.5}, lr=0.1)
    assert same(learners[0], learners[1])
    assert same(learners[0], learners[2])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "sgd", "momentun": 0.9}, "SGD has no option 'momentun'. Did you mean 'momentum'?"),
        ({"name": "sgd", "momentum": -1.0}, "SGD does not take these options, Invalid momentum value: -1.0"),
        (
            {"momentum": 0.9},
            "expected optimizer to be a name, or a mapping with a name and options, got {'momentum': 0.9}",
        ),
        ("lbfgs", "unknown optimizer 'lbfgs'."),
        (lambda parameters: None, "expected optimizer(parameters) to return a torch.optim.Optimizer, got a NoneType"),
        (lambda parameters: torch.optim.LBFGS(parameters), "LBFGS evaluates the loss several times a step"),
        (
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1),
            "of this learner's parameters, got one of others",
        ),
    ],
)
def test_optimizers_that_are_none(choice: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(protonet(), gaussians(), optimizer=choice)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": {"name": "cosine", "every": 3}}, "the schedule 'cosine' has no option 'every'. It has none."),
        ({"schedule": {"name": "step", "evry": 3}}, "the schedule 'step' has no option 'evry'. Did you mean 'every'?"),
        ({"schedule": {"name": "step", "every": 0}}, "expected the step schedule's every to be at least 1, got 0"),
        (
            {"schedule": lambda optimizer, steps: None},
            "expected schedule(optimizer, steps) to return a torch LRScheduler",
        ),
        (
            {"schedule": lambda optimizer, steps: None, "warmup": 3},
            "expected no warmup=3 beside a schedule of your own",
        ),
    ],
)
def test_schedules_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(protonet(), gaussians(), **options)
    assert message in str(caught.value)
