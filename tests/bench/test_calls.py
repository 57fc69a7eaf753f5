"""What an outer step calls: a guard of its speed that counts, and knows no clock.

In `vmap` and `compile` neither operators nor Python functions grow with the tasks, in `compile` nothing with the inner
steps. A change that makes a step call more than it does now has to say why, by raising a number below.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot.bench.counting import Operators
from kshot.bench.workloads.sinusoid import Sinusoid
from kshot.episodes import Episodes
from kshot.learners import Learner
from kshot.tasks import load
from kshot.training.optimizers import make_optimizer, make_schedule
from kshot.training.step import OuterStep

PYTHON = {"vmap": 1_720, "compile": 510}
OPERATORS = {"vmap": 350}
"""Calls of an outer step of MAML on sinusoids with one inner step."""


def python_calls(function: Callable[[], object]) -> int:
    """How many Python functions are called."""
    number = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal number
        number += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return number


def operators(function: Callable[[], object]) -> int:
    with Operators() as counted:
        function()
    return counted.number


def outer_step(mode: str, tasks: int, inner_steps: int) -> Callable[[], object]:
    """An outer step that was made before."""
    learner: Learner = Sinusoid(inner_steps)._learner().train()
    optimizer = make_optimizer("adam", learner.parameters(), 1e-3)
    schedule = make_schedule("constant", optimizer, 100)
    outer = OuterStep(
        learner, optimizer, schedule, mode=mode, chunk=None, amp=None, clip=None, device=torch.device("cpu")
    )
    episodes: Episodes = load("sinusoids", shot=10, query=10).train.sample(tasks, seed=0)

    def step() -> None:
        outer([episodes], tasks)

    for _ in range(3):  # the state of the optimizer, caches, the graph
        step()
    return step


@pytest.mark.parametrize("mode", ["vmap", "compile"])
def test_nothing_grows_with_the_tasks(mode: str) -> None:
    few, many = (python_calls(outer_step(mode, tasks, 1)) for tasks in (10, 40))
    assert many <= few + 5  # a finalizer may come in between
    assert few <= PYTHON[mode]
    if mode == "vmap":
        few, many = (operators(outer_step(mode, tasks, 1)) for tasks in (10, 40))
        assert few == many
        assert few <= OPERATORS[mode]


def test_a_loop_is_counted_too() -> None:
    """Or the counter does not count."""
    assert operators(outer_step("loop", 8, 1)) > 3 * operators(outer_step("loop", 2, 1))


def test_nothing_compiled_grows_with_the_inner_steps() -> None:
    one, five = (python_calls(outer_step("compile", 10, steps)) for steps in (1, 5))
    assert five <= one + 5
