"""The baselines that train a whole network on the support: fine-tuning a pretrained one, and training from scratch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kshot.engine import rules
from kshot.engine.inner import trajectory
from kshot.episodes import Examples
from kshot.learners.base import Learner
from kshot.learners.linear_probe import logistic_regression
from kshot.models import Network, Statistics

Parameters = dict[str, Tensor]


def adam(
    loss: Callable[[Parameters], Tensor], parameters: Parameters, *, steps: Sequence[int], lr: float
) -> list[Parameters]:
    """The parameters after each number of `steps`, in rising order, of Adam (Kingma and Ba 2015), out of place."""
    reached = [parameters] if 0 in steps else []
    rule = functools.partial(rules.adam, lr=lr)
    path = trajectory(lambda _, now: loss(now), parameters, rule, steps=max(steps), order=1)
    return reached + [now for number, now in enumerate(path, 1) if number in steps]


class FineTuned(Learner):
    """A pretrained network, all of it, trained on the support set.

    For classification the pretrained head is replaced by the logistic regression on the support's features, from which
    training goes on (a linear probe first and fine-tuning then distorts the features least, Kumar et al. 2022). Batch
    normalisation keeps its statistics from pretraining: those of a handful of examples would be worse, and those of the
    queries would be transductive.

    Args:
        backbone: the pretrained network: features for classification, values for regression.
        classification: whether a head is put on it.
        scale: root mean square length of the centred features, in which the head's penalty is measured.

    `adapt(support, steps=..., lr=...)`: Adam's. Several numbers of steps give as many predictions, stacked before the
    queries.
    """

    modes = ("loop", "vmap")

    def __init__(self, backbone: nn.Module, classification: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.outputs = "logits" if classification else "values"
        self.scale = float(scale)
        self.eval()

    def adapt(self, support: Examples, *, steps: Sequence[int] = (10,), lr: float = 1e-3) -> list[Parameters]:  # type: ignore[override]
        parameters: Parameters = {f"backbone.{name}": value for name, value in self.backbone.named_parameters()}
        if self.outputs == "logits":
            z = self._features(parameters, support.x)
            head = logistic_regression(support.replace_x(z / self.scale), l2=0.01)
            parameters |= {"weight": head["weight"] / self.scale, "bias": head["bias"]}
        return adam(lambda p: self.loss(self._run(p, support.x), support), parameters, steps=steps, lr=lr)

    def predict(self, adapted: list[Parameters], x: Any) -> Tensor:
        return torch.stack([self._run(parameters, x) for parameters in adapted])

    def _features(self, parameters: Parameters, x: Any) -> Tensor:
        own = {name.removeprefix("backbone."): v for name, v in parameters.items() if name.startswith("backbone.")}
        out: Tensor = functional_call(self.backbone, own, (x,))
        return out

    def _run(self, parameters: Parameters, x: Any) -> Tensor:
        z = self._features(parameters, x)
        return z if self.outputs == "values" else z @ parameters["weight"] + parameters["bias"]


class FromScratch(Learner):
    """An untrained network trained on the support set alone, with the support's own batch statistics.

    Args:
        backbone: freshly initialised.
        head: outputs of a linear head put on it, classes or values; None: the backbone's own output is the values.
        classification: or regression.

    `adapt(support, steps=..., lr=...)` as for `FineTuned`.

    Raises:
        UnsupportedError: the network has batch-normalisation layers that cannot take their statistics from the support.
    """

    modes = ("loop", "vmap")

    def __init__(self, backbone: nn.Module, head: int | None = None, classification: bool = True) -> None:
        super().__init__()
        self.network = Network(backbone, head)
        self.outputs = "logits" if classification else "values"
        self.eval()

    @property
    def way(self) -> int | None:
        head = self.network.head
        return head.out_features if head is not None and self.outputs == "logits" else None

    def adapt(self, support: Examples, *, steps: Sequence[int] = (30,), lr: float = 1e-3) -> list[Any]:  # type: ignore[override]
        mask = support.mask if support.padded else None

        def loss(parameters: Parameters) -> Tensor:
            return self.loss(self._run(parameters, support.x, Statistics(mask)), support)

        adapted = []
        for parameters in adam(loss, dict(self.network.named_parameters()), steps=steps, lr=lr):
            statistics = Statistics(mask)
            if self.network.batch_statistics:
                self._run(parameters, support.x, statistics)
            adapted.append({"parameters": parameters, "statistics": statistics.collected})
        return adapted

    def predict(self, adapted: list[Any], x: Any) -> Tensor:
        outputs = [self._run(a["parameters"], x, Statistics(given=a["statistics"])) for a in adapted]
        return torch.stack(outputs)

    def _run(self, parameters: Parameters, x: Any, statistics: Statistics) -> Tensor:
        out: Tensor = functional_call(
            self.network, parameters, (x, statistics) if self.network.batch_statistics else (x,)
        )
        return out
