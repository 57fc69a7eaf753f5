"""Implicit MAML (Rajeswaran, Finn, Kakade, Levine 2019)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kshot.engine.inner import Step, Weights
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.learners.base import attach
from kshot.learners.gradient import GradientLearner
from kshot.models import MLP


class IMAML(GradientLearner):
    """A start from which weights are not let go far; its meta-gradient needs where they end, not how they got there.

    phi = argmin L(phi; support) + lambda/2 |phi - theta|^2 (eq. 3), here by `inner_steps` of gradient descent. The
    meta-gradient is (I + H / lambda)^-1 grad L(phi; query), H the Hessian of the support loss at phi (lemma 1), by
    conjugate gradients on Hessian-vector products (algorithm 2). Nothing of the inner loop is kept: memory does not
    grow with its steps. Undamped, the gradient is as exact as the inner optimum and the conjugate gradients are.

    A network's Hessian has large negative curvature too, and what the inverse makes of it is noise: by the exact
    gradient a Conv-4 with batch normalisation was no better after 700 outer steps than at first. `damping` keeps the
    inverse near the identity, (I + H / (lambda + damping))^-1, as the authors' code does: its 2 I + H / (lambda + 10)
    is a damping of lambda + 20, by default 22.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None for a regressor.
        strength: lambda.
        inner_lr: of the gradient descent.
        inner_steps: of it in training.
        test_steps: of it in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.
        cg_steps: of conjugate gradients.
        damping: added to lambda in the meta-gradient alone. With 0 that is the exact one; the more, the nearer it comes
            to first-order MAML's.
        norm: as for `MAML`.

    Raises:
        UnsupportedError: a strength that is not positive, a negative damping or number of conjugate gradients.
    """

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        strength: float = 2.0,
        inner_lr: float = 0.1,
        inner_steps: int = 16,
        test_steps: int | None = None,
        cg_steps: int = 5,
        damping: float = 22.0,
        norm: Literal["support", "batch"] = "support",
    ) -> None:
        super().__init__(backbone, way, inner_steps, 1, test_steps, norm)
        if not strength > 0:
            raise UnsupportedError(f"expected a positive strength of the regularisation, got {strength!r}")
        if cg_steps < 0:
            raise UnsupportedError(f"expected at least 0 conjugate gradients, got {cg_steps}")
        if not damping >= 0:
            raise UnsupportedError(f"expected a damping of at least 0, got {damping!r}")
        self.strength, self.inner_lr, self.cg_steps = float(strength), float(inner_lr), cg_steps
        self.damping = float(damping)
        self.meta_gradient = "implicit"

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        # The regularisation's own gradient is known: lambda (phi - theta).
        theta = self.start()
        moved = {
            name: value - self.inner_lr * (step.gradients[name] + self.strength * (value - theta[name].detach()))
            for name, value in weights.items()
        }
        return moved, state

    def start(self) -> Weights:
        return {name: p.detach() for name, p in super().start().items()}

    def objective(self, support: Examples, query: Examples) -> Tensor:
        steps = self.steps_of(None)
        reached = self.adapt(support)["parameters"]
        phi: Weights = {name: p.detach() for name, p in reached.items()}

        def support_loss(weights: Weights) -> Tensor:
            return self.inner_loss(0, weights, support)

        def query_loss(weights: Weights) -> Tensor:
            # The support's statistics are functions of the weights, too.
            return self.loss(self.predict_with_mask(self.adapted(weights, support, steps), query), query)

        gradient, value = torch.func.grad_and_value(query_loss)(phi)

        def product(v: Weights) -> Weights:
            # H v as the gradient of grad(loss) . v: forward-mode jvp would be one pass less and does not compile.
            curved = torch.func.grad(lambda weights: _dot(torch.func.grad(support_loss)(weights), v))(phi)
            return {name: v[name] + curved[name] / (self.strength + self.damping) for name in v}

        solved = conjugate_gradients(product, gradient, self.cg_steps)
        return attach(value, dict(self.network.named_parameters()), solved)

    @classmethod
    def tiny(cls, kind: str = "classification") -> IMAML:
        if kind == "regression":
            return cls(
                MLP(1, hidden=(40, 40), out_features=1), strength=5.0, inner_lr=0.02, inner_steps=16, damping=0.0
            )
        return cls(MLP(8, hidden=(32,)), way=5, strength=1.0, inner_lr=0.1, inner_steps=8, cg_steps=2, damping=0.0)


def conjugate_gradients(product: Any, b: Weights, steps: int) -> Weights:
    """An approximate solution x of A x = b, A symmetric, given as v -> A v.

    `steps` of the method of Hestenes and Stiefel (1952) from x = 0. Where A is not positive definite after all (along a
    direction of negative curvature) it stays where it is, and takes b itself where that is the first direction, as the
    truncated Newton method of Dembo and Steihaug (1983) does. The number of steps is fixed, so that it runs under
    `vmap`.
    """
    x = {name: torch.zeros_like(t) for name, t in b.items()}
    r, d, rr = b, b, _dot(b, b)
    tiny = torch.finfo(rr.dtype).tiny
    going = torch.ones_like(rr)
    for number in range(steps):
        q = product(d)
        curvature = _dot(d, q)
        going = going * (curvature > tiny)
        if number == 0:
            x = {name: (1 - going) * t for name, t in b.items()}
        step = going * rr / curvature.clamp(min=tiny)
        x = {name: x[name] + step * d[name] for name in x}
        r = {name: r[name] - step * q[name] for name in r}
        new = _dot(r, r)
        d = {name: r[name] + new / rr.clamp(min=tiny) * d[name] for name in d}
        rr = new
    return x


def _dot(a: Weights, b: Weights) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()
