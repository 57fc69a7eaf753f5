"""Conditional neural adaptive processes, CNAPs (Requeima, Gordon, Bronskill, Nowozin, Turner 2019)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kshot.engine.inner import Weights
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.functional import class_means
from kshot.learners.base import Learner
from kshot.models import MLP, Network, Statistics


class CNAPs(Learner):
    """Makes a network for the task in one pass over its support: no gradient steps.

    A task embedding, the mean of the support's encodings (eq. 3), turns every channel of the feature network by a
    factor and a shift, feature-wise linear modulation (FiLM; sec. 2.2, eq. 2); the head's weights of a class are made
    from the mean of that class's modulated features alone (sec. 2.3), so that any number of classes goes.

    The channels' scales and shifts are the network's vectors: those of its norm layers, and the biases of its linear
    ones. The paper freezes a pretrained network and learns the modulation alone; here all of it is learned together.

    Args:
        backbone: the feature network, `[n, *shape] -> [n, d]`.
        encoder: of the task embedding, `[n, *shape] -> [n, e]`; by default the backbone as it is before modulation.
        hidden: units of the networks that make modulations and heads.
        norm: where TaskBatchNorm layers get a query's statistics: `"support"`, from the support set (inductive), or
            `"batch"`, from the queries themselves (transductive).

    Raises:
        UnsupportedError: another norm, or a backbone without a vector to modulate.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module | None = None,
        hidden: int = 64,
        norm: Literal["support", "batch"] = "support",
    ) -> None:
        super().__init__()
        if norm not in ("support", "batch"):
            raise UnsupportedError(f"expected norm 'support' or 'batch', got {norm!r}")
        self.network, self.norm = Network(backbone, None), norm
        self.encoder = None if encoder is None else Network(encoder, None)
        self.transductive = norm == "batch" and self.network.batch_statistics
        size, encoded = (int(m.out_features) for m in (backbone, backbone if encoder is None else encoder))  # type: ignore[arg-type]
        self.sizes = {name: len(p) for name, p in self.network.named_parameters() if p.ndim == 1}
        if not self.sizes:
            raise UnsupportedError(
                "CNAPs turns the scales and shifts of a network's channels, and this one has neither norm layers nor "
                "biases: use another backbone (Conv4, say)"
            )
        self.modulation = make_mlp(encoded, hidden, sum(self.sizes.values()))
        self.head = make_mlp(size, hidden, size + 1)
        with torch.no_grad():  # begins as the network itself
            self.modulation[-1].weight.mul_(0.01)  # type: ignore[operator]

    def adapt(self, support: Examples) -> dict[str, Any]:  # type: ignore[override]
        mask = support.mask if support.padded else None
        weights: Weights = dict(self.network.named_parameters())
        z = _run(self.encoder or self.network, {}, support.x, Statistics(mask))
        real = support.mask.unsqueeze(-1).to(z.dtype)
        task = (z * real).sum(0) / real.sum().clamp(min=1)
        turns = dict(zip(self.sizes, self.modulation(task).split(list(self.sizes.values())), strict=True))
        # A scale is multiplied and a shift added to: both begin at "no change".
        weights |= {
            name: weights[name] * (1 + turn) if name.endswith("weight") else weights[name] + turn
            for name, turn in turns.items()
        }
        statistics = Statistics(mask)
        made = self.head(class_means(support.replace_x(_run(self.network, weights, support.x, statistics))))
        adapted: dict[str, Any] = {"parameters": weights, "head": made[:, :-1], "bias": made[:, -1]}
        if self.network.batch_statistics and self.norm == "support":
            adapted["statistics"] = statistics.collected
        return adapted

    def predict(self, adapted: dict[str, Any], x: Any, mask: Tensor | None = None) -> Tensor:
        z = _run(self.network, adapted["parameters"], x, Statistics(mask, given=adapted.get("statistics")))
        out: Tensor = z @ adapted["head"].T / z.shape[-1] ** 0.5 + adapted["bias"]
        return out

    @classmethod
    def tiny(cls, kind: str = "classification") -> CNAPs:
        if kind != "classification":
            raise UnsupportedError("CNAPs makes a head of class means: for regression use CNP or MAML")
        return cls(MLP(8, hidden=(32, 32)))


def make_mlp(into: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(into, hidden), nn.ReLU(), nn.Linear(hidden, out))


def _run(network: Network, weights: Weights, x: Any, statistics: Statistics) -> Tensor:
    out: Tensor = functional_call(network, weights, (x, statistics) if network.batch_statistics else (x,))
    return out
