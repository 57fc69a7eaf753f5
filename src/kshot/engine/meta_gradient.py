"""Losses and meta-gradient of a meta-batch in one go: what an outer step needs.

In the modes that compile nothing this is `task_losses` and a backward pass. In `compile` both are one graph: nothing is
kept from a forward pass for a backward one, and what either needs is fused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kshot.engine.hooks import Hooks
from kshot.engine.tasks import compiled, prepared, task_arguments, task_losses
from kshot.episodes import Episodes

Gradients = list[Tensor | None]


def meta_gradient(
    learner: Hooks,
    episodes: Episodes,
    mode: str,
    scale: float | Tensor | None = None,
    parameters: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Gradients]:
    """The loss of every task, `[T]`, and the gradient of `scale` times their sum.

    Equal to what `losses = learner(episodes); (losses.sum() * scale).backward()` leaves in the parameters.

    Args:
        learner: in train mode, as a rule; running statistics that wait for the end of the step are added to.
        episodes: raw inputs.
        mode: of the engine.
        scale: by default one over the number of tasks: the gradient of the mean.
        parameters: `list(learner.parameters())`, for who has it.

    Returns:
        Losses, and for each of the learner's parameters its gradient; None where the losses do not depend on it.
    """
    scale = 1 / max(1, len(episodes)) if scale is None else scale
    parameters = list(learner.parameters() if parameters is None else parameters)
    if mode == "compile":
        return _compiled(learner, parameters, episodes, scale)
    losses = task_losses(learner, episodes, mode)
    return losses.detach(), _gradients([losses.float().sum() * scale], parameters)


def _compiled(
    learner: Hooks, parameters: list[Tensor], episodes: Episodes, scale: float | Tensor
) -> tuple[Tensor, Gradients]:
    ready, precise = prepared(learner, episodes, "compile")
    with precise:
        arguments = task_arguments(learner.objective, ready)
        function = compiled(learner, learner.objective, "objective")
        cotangent = torch.as_tensor(scale, device=episodes.device).expand(len(episodes)).contiguous()
        found = function.with_gradients(arguments, [cotangent])
        if found is None:  # uncompiled, from the features that are there
            losses = function.mapped(*arguments)
            return losses.detach(), _gradients([losses.float().sum() * scale], parameters)
    losses, own, others = found
    gradients = own[: len(parameters)]
    shared = [(leaf, g) for leaf, g in zip(pytree.tree_leaves(arguments), others, strict=True) if g is not None]
    if shared:  # the features that tasks share: from their gradient on, it is theirs to go back
        more = _gradients([leaf for leaf, _ in shared], parameters, [g for _, g in shared])
        gradients = [a if b is None else b if a is None else a + b for a, b in zip(gradients, more, strict=True)]
    return losses, gradients


def _gradients(
    outputs: Sequence[Tensor], parameters: list[Tensor], weights: Sequence[Tensor] | None = None
) -> Gradients:
    wanted = [p for p in parameters if p.requires_grad]
    found: list[Tensor | None] = [None] * len(wanted)
    if wanted and any(o.requires_grad for o in outputs):
        found = list(torch.autograd.grad(outputs, wanted, weights, allow_unused=True))
    each = iter(found)
    return [next(each) if p.requires_grad else None for p in parameters]
