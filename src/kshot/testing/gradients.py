"""What each declared kind of meta-gradient must equal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kshot import engine
from kshot.episodes import Episodes
from kshot.learners import Learner

STEP = 1e-5
"""Central differences in float64: their own error is about h^2 + 1e-16 / h, some 1e-10 relative to values near one."""

DIRECTIONS = 3


def directional_check(learner: Learner, value: Callable[[], Tensor], gradient: list[Tensor], what: str) -> None:
    """Asserts that `gradient` is that of `value()` in the learner's parameters, along random directions."""
    parameters = list(learner.parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(DIRECTIONS):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(sign * STEP * d)
            ends.append(value().detach())
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.sub_(sign * STEP * d)
        numeric = (ends[0] - ends[1]) / (2 * STEP)
        analytic = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        torch.testing.assert_close(
            torch.as_tensor(analytic),
            numeric,
            rtol=1e-5,
            atol=1e-7,
            msg=lambda text: f"meta-gradient is not {what}. {text}",
        )


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
    """The derivative with the inner steps' sum held constant: d/d theta of L(theta + delta; query).

    delta is what `adapt` adds to where it starts, which `adapt(support, steps=0)` returns. It must also differ from
    the exact one: a first-order flag that does nothing is the predecessors' oldest bug.
    """
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

    gradient = _gradient(learner, episodes)
    directional_check(learner, value, gradient, "first-order")


META_GRADIENT_CHECKS: dict[str, Callable[[Learner, Episodes], None]] = {
    "exact": check_exact,
    "first_order": check_first_order,
}
"""The check of each kind that a learner can declare."""
