"""The inner loop on a quadratic, whose path is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kshot import engine
from kshot.engine.inner import Step, trajectory, unroll

F64 = torch.float64
A = torch.tensor([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 3.0]], dtype=F64)
B = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
EYE = torch.eye(3, dtype=F64)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def quadratic(weights: dict[str, Tensor]) -> Tensor:
    """w'Aw / 2 - b'w, of weights in two parts that are not independent of each other."""
    w = torch.cat([weights["first"], weights["second"]])
    return w @ A @ w / 2 - B @ w


def start() -> dict[str, Tensor]:
    w = torch.tensor([0.3, -0.7, 1.1], dtype=F64)
    return {"first": w[:1].clone().requires_grad_(), "second": w[1:].clone().requires_grad_()}


def joined(parts: dict[str, Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat(list(parts.values()) if isinstance(parts, dict) else parts)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_gradient_descent_on_a_quadratic(steps, order):
    """w_n = w* + (I - alpha A)^n (w_0 - w*), and the derivative in w_0 is (I - alpha A)^n, or I of first order."""
    weights = start()
    found = joined(engine.gradient_descent(quadratic, weights, steps=steps, lr=0.1, order=order))
    optimum = torch.linalg.solve(A, B)
    power = torch.linalg.matrix_power(EYE - 0.1 * A, steps)
    torch.testing.assert_close(found, optimum + power @ (joined(weights) - optimum), **EXACT)
    outer = torch.tensor([0.2, 1.5, -1.0], dtype=F64)
    gradient = joined(torch.autograd.grad(outer @ found, list(weights.values())))
    torch.testing.assert_close(gradient, power.T @ outer if order == 2 else outer, **EXACT)
    torch.testing.assert_close(joined(weights), joined(start()))


@pytest.mark.parametrize("order", [1, 2])
def test_each_parameter_may_have_a_rate_which_is_learned(order):
    """w_n = w* + (I - R A)^n (w_0 - w*), R the rates on the diagonal; of first order a rate's derivative is that of
    r g with g taken as it is."""
    weights, steps = start(), 3
    rates = {"first": torch.tensor(0.2, dtype=F64), "second": torch.tensor([0.05, 0.1], dtype=F64)}
    rates = {name: rate.requires_grad_() for name, rate in rates.items()}
    found = joined(engine.gradient_descent(quadratic, weights, steps=steps, lr=rates, order=order))
    r = joined({"first": rates["first"][None], "second": rates["second"]})
    optimum = torch.linalg.solve(A, B)
    expected = optimum + torch.linalg.matrix_power(EYE - r[:, None] * A, steps) @ (joined(weights) - optimum)
    torch.testing.assert_close(found, expected, **EXACT)
    outer = torch.tensor([0.2, 1.5, -1.0], dtype=F64)
    (gradient,) = torch.autograd.grad(outer @ found, [rates["second"]])
    if order == 2:
        (by_hand,) = torch.autograd.grad(outer @ expected, [rates["second"]])
    else:
        w, by_hand = joined(weights).detach(), torch.zeros(2, dtype=F64)
        for _ in range(steps):
            slope = A @ w - B
            by_hand -= (outer * slope)[1:]
            w = w - r.detach() * slope
    torch.testing.assert_close(gradient, by_hand, **EXACT)


def test_a_rule_remembers_and_is_told_the_number_the_loss_and_the_gradients_of_its_step():
    """Heavy-ball momentum, of a loss that grows with the steps: every one of them is yielded."""
    seen: list[Step] = []

    def heavy_ball(step: Step, weights: dict[str, Tensor], state: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        seen.append(step)
        state = 0.9 * state + step.gradients["w"]
        return {"w": weights["w"] - 0.05 * state}, state

    def loss(number: int, weights: dict[str, Tensor]) -> Tensor:
        return (number + 1) * (weights["w"] @ A @ weights["w"] / 2 - B @ weights["w"])

    w, velocity = torch.tensor([0.3, -0.7, 1.1], dtype=F64), torch.ones(3, dtype=F64)
    how = {"steps": 4, "state": velocity}
    path = list(trajectory(loss, {"w": w}, heavy_ball, **how))
    last = unroll(loss, {"w": w}, heavy_ball, **how)["w"]
    assert [step.number for step in seen] == [0, 1, 2, 3] * 2
    assert len(path) == 4
    for number, now in enumerate(path):
        gradient = (number + 1) * (A @ w - B)
        torch.testing.assert_close(seen[number].loss, loss(number, {"w": w}), **EXACT)
        torch.testing.assert_close(seen[number].gradients["w"], gradient, **EXACT)
        velocity = 0.9 * velocity + gradient
        w = w - 0.05 * velocity
        torch.testing.assert_close(now["w"], w, **EXACT)
    torch.testing.assert_close(last, w, **EXACT)
