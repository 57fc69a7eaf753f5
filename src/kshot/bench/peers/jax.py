"""MAML in JAX: `jit` of the gradient of the mean over tasks, Adam inside of it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kshot.bench.peers.problem import OUTER_LR, MamlProblem
from kshot.bench.workload import Answers, Contender


def name(in_turn: bool) -> str:
    """Of the contender."""
    return "jax, in turn" if in_turn else "jax"


def absent(device: torch.device) -> str | None:
    """Why JAX cannot compute where torch does; None where it can."""
    try:
        _device(device)
    except RuntimeError as error:
        if device.type == "cuda":
            return f"the one that is installed finds no GPU ({_line(error)}): pip install 'jax[cuda13]'"
        return f"the one that is installed does not compute on a CPU here ({_line(error)}); see JAX_PLATFORMS"
    return None


def _device(device: torch.device) -> Any:
    """JAX's name of torch's device; its own default is a GPU where it has one."""
    # It takes three quarters of a GPU's memory otherwise, which torch is to compute on, too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return jax.devices("gpu" if device.type == "cuda" else "cpu")[0]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def contender(problem: MamlProblem, *, in_turn: bool = False) -> Contender:
    """JAX on the same tasks, which lie in its own arrays, on torch's device, before anything is timed. Arrays that were
    put on a device stay there, and so does what is computed of them.

    Args:
        in_turn: tasks one after another (`lax.map`) rather than at once (`vmap`): what convolutions whose weights are
            each task's own want on a CPU.
    """
    import jax
    import jax.numpy as jnp

    device = _device(problem.batches[0].device)
    if device.platform != "cpu":  # in TF32 otherwise; torch's float32 is float32 (`kshot.bench.machine.full_float32`)
        jax.config.update("jax_default_matmul_precision", "float32")  # type: ignore[no-untyped-call]
    weights = [jax.device_put(w.detach().cpu().numpy(), device) for w in problem.weights]
    batches = [tuple(jax.device_put(t.cpu().numpy(), device) for t in batch) for batch in problem.batches]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        output = problem.jax_forward(weights, x)
        if problem.classes:
            return -jnp.take_along_axis(jax.nn.log_softmax(output), y[:, None], axis=1).mean()
        return jnp.square(output - y).mean()

    def task(weights: Any, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
        fast = weights
        for _ in range(problem.steps):
            gradients = jax.grad(loss)(fast, support_x, support_y)
            fast = [w - problem.lr * g for w, g in zip(fast, gradients, strict=True)]
        return loss(fast, query_x, query_y)

    def mean(weights: Any, batch: Any) -> Any:
        if in_turn:
            losses = jax.lax.map(lambda one: task(weights, *one), batch)
        else:
            losses = jax.vmap(task, in_axes=(None, 0, 0, 0, 0))(weights, *batch)
        return losses.mean(), losses

    gradient: Callable[..., Any] = jax.jit(jax.grad(mean, has_aux=True))

    @jax.jit
    def outer(state: Any, batch: Any) -> Any:
        """A step of Adam (Kingma, Ba 2015, algorithm 1)."""
        weights, first, second, count = state
        gradients, losses = jax.grad(mean, has_aux=True)(weights, batch)
        count = count + 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradients, strict=True)]
        weights = [
            w - OUTER_LR * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
            for w, m, v in zip(weights, first, second, strict=True)
        ]
        return (weights, first, second, count), losses.mean()

    zeros = [jax.device_put(np.zeros(w.shape, np.float32), device) for w in weights]
    state: Any = (weights, zeros, zeros, jax.device_put(np.zeros((), np.float32), device))
    cycle = itertools.cycle(batches)

    wait: Callable[..., Any] = jax.block_until_ready

    def step() -> None:
        nonlocal state
        state, _ = outer(state, next(cycle))

    def answers() -> Answers:
        gradients, losses = gradient(weights, batches[0])
        vector = torch.cat([torch.tensor(jax.device_get(g)).flatten() for g in gradients])
        return {"losses": torch.tensor(jax.device_get(losses)), "meta-gradient": vector}

    return Contender(name(in_turn), step, answers, wait=lambda: wait(state))
