"""Inner loops whose memory grows with the square root of the steps: what lies between a few kept weights is computed
again on the way back.

To differentiate through `n` inner steps, autograd keeps the activations of all of them. Here only the weights at the
ends of about sqrt(n) segments are kept; the backward pass takes a segment at a time, runs it again and differentiates
that (Griewank 1992; Chen et al. 2016, sec. 4.1). The last steps, where the way back begins, are kept as they are: it
costs less than one more forward pass. `torch.utils.checkpoint` does not work around `torch.func.grad`; a function with
a derivative of its own does, under `vmap`, too, if all that its result depends on is among its arguments.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from kshot.engine.calling import Calling
from kshot.engine.inner import Update, Weights, unroll
from kshot.episodes import Examples
from kshot.models.switch import Switch, differentiated_twice, single_task

Loop = tuple[Callable[[int, Weights], Tensor], Weights, Update]
"""The loss at a step, where the weights start, and the update rule."""

_wanted = Switch("recomputing")


@contextlib.contextmanager
def recomputing(wanted: bool = True) -> Iterator[None]:
    """Within it, learners that take inner steps on a whole network forget them and compute them again when they are
    differentiated.

    >>> import torch, kshot
    >>> learner = kshot.MAML(kshot.models.MLP(1, out_features=1), inner_steps=20)
    >>> with kshot.engine.recomputing():
    ...     losses = learner(kshot.tasks.load("sinusoids").train.sample(4, seed=0))
    >>> losses.mean().backward()
    """
    with _wanted.set(wanted):
        yield


def is_recomputing() -> bool:
    """Whether inner steps are to be computed again."""
    return _wanted.on


def unroll_in_segments(
    learner: nn.Module,
    inner_loop: Callable[[Examples], Loop],
    support: Examples,
    *,
    steps: int,
    order: int = 2,
    length: int | None = None,
) -> Weights:
    """What `unroll` gives, of the same value and the same derivatives, with the memory of a segment.

    Args:
        learner: whose parameters and buffers the loop may use.
        inner_loop: of a support set: the loss, where the weights start, the update rule. It is called anew for each
            segment, with everything it uses handed to it.
        support: one task's.
        steps, order: as for `unroll`.
        length: steps of a segment; by default the square root of the steps.
    """
    length = length or max(1, math.isqrt(max(0, steps - 1)) + 1)
    _, weights, _ = inner_loop(support)
    state: Any = None
    # The last steps are kept as they are: half a segment, since the pass over the queries lies in memory beside them.
    # The first segment is the shorter one.
    ends = [*range(steps - max(1, length // 2), 0, -length)[::-1], steps]
    for first, end in itertools.pairwise([0, *ends]):
        segment = _Steps(learner, inner_loop, first, end - first, order)
        weights, state = (segment.run if end == steps else segment)(support, weights, state)
    return dict(weights)


class _Steps:
    """Some of the inner steps, as a function of tensors alone."""

    def __init__(
        self, learner: nn.Module, inner_loop: Callable[[Examples], Loop], first: int, count: int, order: int
    ) -> None:
        self.calling = Calling(learner, self.run)
        self.inner_loop, self.first, self.count, self.order = inner_loop, first, count, order

    def __call__(self, support: Examples, weights: Mapping[str, Tensor], state: Any) -> tuple[Weights, Any]:
        named = [*self.calling.named_parameters(), *self.calling.named_buffers()]
        self.names = [name for name, _ in named]
        leaves, self.restore = _apart((support, dict(weights), state))
        tensors = [*(value for _, value in named), *leaves]
        self.dropout, self.single = _same_draws([t.device for t in tensors]), single_task.on
        with differentiated_twice.set(self.order != 1):  # now as later, when it is
            made = _Recomputed.apply(self, *tensors)  # type: ignore[no-untyped-call]
        found: tuple[Weights, Any] = self.restore_made(made)
        return found

    def compute(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = dict(zip(self.names, tensors, strict=False))
        leaves, self.restore_made = _apart(functional_call(self.calling, values, self.restore(tensors[len(values) :])))
        return tuple(leaves)

    def pull_back(
        self, tensors: tuple[Tensor, ...], cotangents: tuple[Tensor, ...], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """The gradient in each of the tensors where it is needed: pictures need none, as a rule."""
        wanted = [need and t.is_floating_point() for t, need in zip(tensors, needed, strict=True)]

        def of_numbers(*numbers: Tensor) -> tuple[Tensor, ...]:
            each = iter(numbers)
            return self.compute(tuple(next(each) if want else t for t, want in zip(tensors, wanted, strict=True)))

        numbers = [t for t, want in zip(tensors, wanted, strict=True) if want]
        with self.dropout(), single_task.set(self.single), differentiated_twice.set(self.order != 1):
            pull = torch.func.vjp(of_numbers, *numbers)[1]
        each = iter(pull(tuple(cotangents)))
        return [next(each) if want else None for want in wanted]

    def run(self, support: Examples, weights: Mapping[str, Tensor], state: Any) -> tuple[Weights, Any]:
        """The steps themselves, of which autograd keeps what it likes."""
        loss, _, update = self.inner_loop(support)
        kept: list[Any] = [state]

        def remembered(step: Any, now: Weights, before: Any) -> tuple[Weights, Any]:
            moved, kept[0] = update(step._replace(number=self.first + step.number), now, before)
            return moved, kept[0]

        last = unroll(
            lambda number, now: loss(self.first + number, now),
            weights, remembered, steps=self.count, order=self.order, state=state,
        )  # fmt: skip
        return last, kept[0]


def _same_draws(devices: Sequence[torch.device]) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """What makes random numbers be drawn as they are from now on: dropout has to drop the same units again."""
    if torch.compiler.is_compiling():
        return contextlib.nullcontext
    gpus = sorted({d.index or 0 for d in devices if d.type == "cuda"})
    here, there = torch.get_rng_state(), [torch.cuda.get_rng_state(gpu) for gpu in gpus]

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        with torch.random.fork_rng(gpus):
            torch.set_rng_state(here)
            for gpu, state in zip(gpus, there, strict=True):
                torch.cuda.set_rng_state(state, gpu)
            yield

    return again


def _apart(tree: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a pytree, and what makes the tree of them again: a state may begin as None."""
    leaves, spec = pytree.tree_flatten(tree)
    constants = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]

    def restore(tensors: Sequence[Tensor]) -> Any:
        each = iter(tensors)
        return pytree.tree_unflatten([next(each) if one is None else one[0] for one in constants], spec)

    return [leaf for leaf in leaves if isinstance(leaf, Tensor)], restore


class _Recomputed(torch.autograd.Function):
    """Steps of which nothing is kept but what they began with."""

    generate_vmap_rule = True

    @staticmethod
    def forward(steps: _Steps, *tensors: Tensor) -> tuple[Tensor, ...]:
        return steps.compute(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.steps = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        return (None, *ctx.steps.pull_back(ctx.saved_tensors, cotangents, ctx.needs_input_grad[1:]))
