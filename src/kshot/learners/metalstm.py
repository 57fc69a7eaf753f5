"""The LSTM meta-learner, Meta-LSTM (Ravi, Larochelle 2017)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kshot.engine.inner import Step, Weights
from kshot.errors import UnsupportedError
from kshot.learners.gradient import STEPS_FOR_CLASSES, GradientLearner
from kshot.models import MLP
from kshot.models.recurrent import LSTMCell


class MetaLSTM(GradientLearner):
    """The inner loop is an LSTM whose cell state is the network's weights: it learns when to step and what to forget.

    c_t = f_t o c_{t-1} + i_t o (-grad L_t) (eq. 2), with the gates

    i_t = sigmoid(W_I [h_t, theta_{t-1}, i_{t-1}] + b_I) and
    f_t = sigmoid(W_F [h_t, theta_{t-1}, f_{t-1}] + b_F),

    h_t the hidden state of an ordinary LSTM that reads the gradient and the loss, both preprocessed (sec. 3.2): the
    two layers of the experiments. Every weight has states of its own, and all weights share the LSTMs (parameter
    sharing). c_0, the initialisation, is learned with the rest.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None for a regressor.
        inner_lr: the input gate to begin with.
        inner_steps: inner steps in training.
        order: 1, the paper's: gradients are constants (sec. 3.3); or 2.
        test_steps: inner steps in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.
        hidden: size of the ordinary LSTM.
        norm: as for `MAML`.

    Raises:
        UnsupportedError: an `inner_lr` that no gate can have.
    """

    suggested = STEPS_FOR_CLASSES

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        order: Literal[1, 2] = 1,
        test_steps: int | None = None,
        hidden: int = 20,
        norm: Literal["support", "batch"] = "support",
    ) -> None:
        super().__init__(backbone, way, inner_steps, order, test_steps, norm)
        if not 0 < inner_lr < 1:
            raise UnsupportedError(f"expected inner_lr, which is an input gate, between 0 and 1, got {inner_lr!r}")
        self.reading = LSTMCell(4, hidden)
        self.gates = nn.Linear(hidden, 2)
        # What each gate sees besides h: the weight, and the gate's own last value.
        self.seen = nn.Parameter(torch.zeros(2, 2))
        with torch.no_grad():
            self.gates.weight.mul_(0.01)
            # Begins nearly as gradient descent: a small step, and a forget gate of 0.993.
            self.gates.bias.copy_(torch.stack([torch.logit(torch.tensor(float(inner_lr))), torch.tensor(5.0)]))

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        now = torch.cat([w.flatten() for w in weights.values()])
        gradient = torch.cat([step.gradients[name].flatten() for name in weights])
        if state is None:
            zeros = now.new_zeros(len(now), self.reading.size)
            state = (zeros, zeros), torch.zeros_like(now).unsqueeze(-1).expand(-1, 2)
        hidden, last = state
        loss = preprocess(step.loss).expand(len(now), 2)
        hidden = self.reading(torch.cat([preprocess(gradient), loss], -1), hidden)
        gates = (self.gates(hidden[0]) + now.unsqueeze(-1) * self.seen[0] + last * self.seen[1]).sigmoid()
        moved = gates[:, 1] * now - gates[:, 0] * gradient
        parts = moved.split([w.numel() for w in weights.values()])
        shaped = {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}
        return shaped, (hidden, gates)

    @classmethod
    def tiny(cls, kind: str = "classification") -> MetaLSTM:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=3, order=2, hidden=8)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=4, order=2, hidden=8)


def preprocess(x: Tensor, p: float = 10.0) -> Tensor:
    """Numbers of any magnitude in two of moderate size: (log|x| / p, sgn x) where |x| >= e^-p, else (-1, e^p x).

    Ravi and Larochelle 2017, sec. 3.2 (after Andrychowicz et al. 2016, appendix A). `[...] -> [..., 2]`.
    """
    smallest = torch.exp(torch.tensor(-p, dtype=x.dtype, device=x.device))
    large = x.abs() >= smallest
    log = x.abs().clamp(min=smallest).log() / p
    return torch.stack([torch.where(large, log, -1.0), torch.where(large, x.sign(), x / smallest)], -1)
