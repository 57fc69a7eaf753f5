"""What each declared kind of meta-gradient must equal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kshot import engine
from kshot.engine.inner import Step, Update, Weights
from kshot.episodes import Episodes
from kshot.learners import Learner
from kshot.learners.gradient import GradientLearner

STEPS = (1e-6, 1e-7, 1e-8)
"""Of central differences in float64, whose own error is about h^2 + 1e-16 / h: 1e-10 to 1e-8 for values near one. The
first one that agrees is enough: where a ReLU's kink lies within a step, a smaller one does not reach it, and a gradient
that is wrong agrees with none."""

DIRECTIONS = 3

ENOUGH = 500
"""Conjugate gradients that solve the system of `check_implicit` to its tolerance: its strength leaves few eigenvalues
far from one. Were they too few, the check would fail."""


def directional_check(learner: Learner, value: Callable[[], Tensor], gradient: list[Tensor], what: str) -> None:
    """Asserts that `gradient` is that of `value()` in the learner's parameters, along random directions."""
    parameters = list(learner.parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(DIRECTIONS):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        analytic = torch.as_tensor(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))
        numeric = [_difference(parameters, direction, value, step) for step in STEPS[:1]]
        for step in STEPS[1:]:
            if torch.isclose(analytic, numeric[-1], rtol=1e-5, atol=1e-7):
                break
            numeric.append(_difference(parameters, direction, value, step))
        torch.testing.assert_close(
            analytic,
            numeric[-1],
            rtol=1e-5,
            atol=1e-7,
            msg=lambda text: f"meta-gradient is not {what}. {text}",
        )


def _difference(
    parameters: list[torch.nn.Parameter], direction: list[Tensor], value: Callable[[], Tensor], step: float
) -> Tensor:
    """The central difference of `value()` along a direction; the parameters end as they were."""
    before = [p.detach().clone() for p in parameters]
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, start, d in zip(parameters, before, direction, strict=True):
                p.copy_(start + sign * step * d)
        ends.append(value().detach())
    with torch.no_grad():
        for p, start in zip(parameters, before, strict=True):
            p.copy_(start)
    return (ends[0] - ends[1]) / (2 * step)


def _gradient(learner: Learner, episodes: Episodes) -> list[Tensor]:
    learner.zero_grad()
    losses = engine.task_losses(learner, episodes, "loop")
    losses.mean().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learner.parameters()]


def check_exact(learner: Learner, episodes: Episodes) -> None:
    """The derivative of the objective itself, by finite differences."""
    if not list(learner.parameters()):
        return
    gradient = _gradient(learner, episodes)
    directional_check(learner, lambda: engine.task_losses(learner, episodes, "loop").mean(), gradient, "exact")


def check_first_order(learner: Learner, episodes: Episodes) -> None:
    """The derivative with the inner gradients held constant, by finite differences.

    Where the inner loop is an update rule of ours (`GradientLearner`), the rule gets the same gradients again while the
    parameters move, its own among them. Elsewhere the sum of the inner steps is held: d/d theta of
    L(theta + delta; query), delta being what `adapt` adds to where it starts, which `adapt(support, steps=0)` returns.
    """
    value = (_same_gradients if isinstance(learner, GradientLearner) else _same_steps)(learner, episodes)
    directional_check(learner, value, _gradient(learner, episodes), "first-order")


def _same_gradients(learner: Any, episodes: Episodes) -> Callable[[], Tensor]:
    """The objective, whose inner loops meet the gradients that they meet now, whatever the parameters are."""
    rule: Update = learner.update
    met: list[Step] = []

    def record(step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        met.append(Step(step.number, step.loss.detach(), {name: g.detach() for name, g in step.gradients.items()}))
        return rule(step, weights, state)

    def objective(update: Update) -> Tensor:
        learner.update = update
        try:
            return engine.task_losses(learner, episodes, "loop").mean()
        finally:
            del learner.update

    objective(record)

    def value() -> Tensor:
        again = iter(met)
        return objective(lambda step, weights, state: rule(next(again), weights, state))

    return value


def _same_steps(learner: Learner, episodes: Episodes) -> Callable[[], Tensor]:
    """The loss after the steps that the inner loops take now, from wherever the parameters are."""
    features = engine.with_features(learner, episodes)
    start = [learner.adapt(task.support, steps=0) for task in features]
    end = [learner.adapt(task.support) for task in features]
    with torch.no_grad():
        delta = [pytree.tree_map(lambda b, a: (b - a).detach(), e, s) for e, s in zip(end, start, strict=True)]

    def value() -> Tensor:
        now = engine.with_features(learner, episodes)
        losses = []
        for task, moved in zip(now, delta, strict=True):
            adapted = pytree.tree_map(lambda a, d: a + d, learner.adapt(task.support, steps=0), moved)
            losses.append(learner.loss(learner.predict_with_mask(adapted, task.query), task.query))
        return torch.stack(losses).mean()

    return value


def check_reptile(learner: Learner, episodes: Episodes) -> None:
    """The mean over tasks of theta - theta': where `adapt` starts (the learner's own parameters, which
    `adapt(support, steps=0)` returns) less where it ends, whatever the queries are."""
    features = engine.with_features(learner, episodes)
    moved: dict[int, Tensor] = {id(p): torch.zeros_like(p) for p in learner.parameters()}
    for task in features:
        start = pytree.tree_leaves(learner.adapt(task.support, steps=0))
        end = pytree.tree_leaves(learner.adapt(task.support))
        for a, b in zip(start, end, strict=True):
            if id(a) in moved:
                moved[id(a)] = moved[id(a)] + (a - b).detach() / len(episodes)
    assert any(bool(m.any()) for m in moved.values()), "adapt moves none of the learner's parameters"
    for p, gradient in zip(learner.parameters(), _gradient(learner, episodes), strict=True):
        torch.testing.assert_close(
            gradient,
            moved[id(p)],
            rtol=1e-9,
            atol=1e-12,
            msg=lambda text: f"meta-gradient is not theta - theta'. {text}",
        )


def check_implicit(learner: Learner, episodes: Episodes) -> None:
    """(I + H / (lambda + damping))^-1 times the query gradient, at the adapted weights, with the Hessian H written out
    and solved with directly. The learner has its lambda in `strength`, what it adds to that, if anything, in `damping`,
    its inner steps in `inner_steps` and as many conjugate gradients as asked for in `cg_steps`.

    The formula holds at any weights and for any lambda: here after one step, and for one that makes the system positive
    definite, which a Hessian alone need not be.
    """
    copied: Any = copy.deepcopy(learner)
    copied.strength, copied.inner_steps = 100.0, 1
    copied.cg_steps = min(3 * sum(p.numel() for p in copied.parameters()), ENOUGH)
    names = [name for name, _ in copied.network.named_parameters()]
    shapes = [p.shape for p in copied.network.parameters()]
    sizes = [p.numel() for p in copied.network.parameters()]

    def tree(flat: Tensor) -> dict[str, Tensor]:
        parts = zip(names, flat.split(sizes), shapes, strict=True)
        return {name: part.view(shape) for name, part, shape in parts}

    features = engine.with_features(copied, episodes)
    expected = []
    for task in features:
        adapted = copied.adapt(task.support)

        def inner(flat: Tensor, task: Episodes = task) -> Tensor:
            loss: Tensor = copied.inner_loss(0, tree(flat), task.support)
            return loss

        def outer(flat: Tensor, task: Episodes = task) -> Tensor:
            output = copied.predict_with_mask(copied.adapted(tree(flat), task.support, 1), task.query)
            loss: Tensor = copied.loss(output, task.query)
            return loss

        flat = torch.cat([adapted["parameters"][name].detach().flatten() for name in names])
        hessian = torch.func.hessian(inner)(flat)
        system = torch.eye(len(flat), dtype=flat.dtype) + hessian / (copied.strength + getattr(copied, "damping", 0.0))
        expected.append(torch.linalg.solve(system, torch.func.grad(outer)(flat)))
    analytic = torch.cat([g.flatten() for g in _gradient(copied, episodes)])
    torch.testing.assert_close(
        analytic,
        torch.stack(expected).mean(0),
        rtol=1e-5,
        atol=1e-8,
        msg=lambda text: f"meta-gradient is not the implicit one. {text}",
    )


META_GRADIENT_CHECKS: dict[str, Callable[[Learner, Episodes], None]] = {
    "exact": check_exact,
    "first_order": check_first_order,
    "reptile": check_reptile,
    "implicit": check_implicit,
}
"""The check of each kind that a learner can declare."""
