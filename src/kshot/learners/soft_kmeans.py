"""Prototypical networks refined by soft k-means on unlabelled examples (Ren et al. 2018)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import mask_logits, one_hot, squared_distance
from kshot.learners.protonet import ProtoNet
from kshot.models import MLP

VARIANTS = ("plain", "distractor", "masked")


class SoftKMeansProtoNet(ProtoNet):
    """Class means that unlabelled examples move, each by how much it seems to belong to the class.

    With h(x_i) the features, z the labels as one-hot rows and u_j the unlabelled features, a step of soft k-means is
    p'_c = (sum_i h(x_i) z_ic + sum_j u_j w_jc) / (sum_i z_ic + sum_j w_jc), from p_c the class means (Ren,
    Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel 2018, section 3.1). The variants differ in w:

    - `"plain"`: w_jc = softmax over c of -|u_j - p_c|^2 (eq. 4).
    - `"distractor"`: one cluster more, at the origin (eq. 5), takes what belongs to no class: softmax over c of
      -|u_j - p_c|^2 / r_c^2 - A(r_c) with A(r) = log(2 pi) / 2 + log r (eq. 6). r is 1 for the classes and learned for
      the distractors.
    - `"masked"`: w_jc = softmax over c of -|u_j - p_c|^2 times m_jc = sigmoid(-gamma_c (d_jc - beta_c)) (eq. 9), with
      d_jc = |u_j - p_c|^2 over its mean over j (eq. 7), threshold beta_c and slope gamma_c from a small network of
      min, max, variance, skewness and excess kurtosis of d_jc over j (eq. 8). It gives their logarithms, as the
      authors' code does: both are positive, and near 1 at first.

    Without unlabelled examples it is `ProtoNet`. Gradients pass through assignments and statistics (the authors' code
    stops some of them). A learned scale multiplies all distances.

    Args:
        backbone: h, `[n, *shape] -> [n, d]`.
        variant: see above.
        steps: of refinement; 1 in the paper. `adapt(support, steps=...)` overrides it; 0 leaves the class means.
        scale: as for `ProtoNet`.
        radius: where the length-scale of the distractors begins (100 in the authors' code).

    Raises:
        UnsupportedError: another variant, a negative number of steps, or a scale or radius that is not positive.
    """

    semi_supervised = True

    def __init__(
        self,
        backbone: nn.Module,
        variant: Literal["plain", "distractor", "masked"] = "masked",
        steps: int = 1,
        scale: float | None = None,
        radius: float = 100.0,
    ) -> None:
        super().__init__(backbone, scale)
        if variant not in VARIANTS or steps < 0 or not radius > 0:
            raise UnsupportedError(
                f"expected a variant of {', '.join(VARIANTS)}, at least 0 steps and a positive radius, got "
                f"{variant!r}, {steps!r} and {radius!r}"
            )
        self.variant, self.steps = variant, steps
        if variant == "distractor":
            self.log_radius = nn.Parameter(torch.tensor(math.log(radius)))
        if variant == "masked":
            last = nn.Linear(20, 2)
            for parameter in last.parameters():
                nn.init.normal_(parameter, std=0.01)
            self.gate = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), last)

    def adapt(self, support: Examples, steps: int | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        if steps is not None and steps < 0:
            raise UnsupportedError(f"expected at least 0 steps of refinement, got {steps}")
        adapted = super().adapt(support)
        if support.unlabeled is None:
            return adapted
        prototypes, x, mask = adapted["prototypes"], first_tensor(support.unlabeled.x), support.unlabeled.mask
        sums, counts = class_sums(support)
        for _ in range(self.steps if steps is None else steps):
            weights = self.weights(prototypes, x, mask, support.classes)
            prototypes = moved(sums, counts, x, weights)
        return {"prototypes": prototypes}

    def weights(self, prototypes: Tensor, x: Tensor, mask: Tensor, classes: Tensor) -> Tensor:
        """How much each unlabelled example counts for each class.

        Args:
            prototypes: `[..., way, d]`.
            x: unlabelled features `[..., m, d]`.
            mask: bool `[..., m]`, which of them are real.
            classes: bool `[..., way]`, which classes the task has.

        Returns:
            `[..., m, way]`; zero for padding and for classes that the task does not have.
        """
        distance = squared_distance(x, prototypes)
        factor = 1.0 if self.log_scale is None else self.log_scale.exp()
        logits = mask_logits(-factor * distance, classes)
        if self.variant == "distractor":
            to_origin = factor * x.square().sum(-1, keepdim=True)
            other = -to_origin * (-2 * self.log_radius).exp() - self.log_radius
            weights = torch.cat([logits, other], -1).softmax(-1)[..., :-1]
        else:
            weights = logits.softmax(-1)
        if self.variant == "masked":
            weights = weights * self.kept(distance, mask)
        return weights * mask.unsqueeze(-1)

    def kept(self, distance: Tensor, mask: Tensor) -> Tensor:
        """The soft mask m (eq. 7-9) of squared distances `[..., m, way]`: `[..., m, way]`."""
        real = mask.unsqueeze(-1).expand_as(distance)
        count = real.sum(-2, keepdim=True).clamp(min=1)

        def mean(values: Tensor) -> Tensor:
            return values.masked_fill(~real, 0).sum(-2, keepdim=True) / count

        d = (distance / mean(distance).clamp(min=1e-6)).masked_fill(~real, 0)
        largest = d.amax(-2, keepdim=True)
        smallest = torch.where(real, d, largest).amin(-2, keepdim=True)
        off = d - mean(d)
        variance = mean(off.square())
        unit = off / (variance + 1e-6).sqrt()
        statistics = [smallest, largest, variance, mean(unit**3), mean(unit**4) - 3]
        beta, gamma = self.gate(torch.stack(statistics, -1)).exp().unbind(-1)
        return torch.sigmoid(-gamma * (d - beta))

    @classmethod
    def tiny(cls, kind: str = "classification") -> SoftKMeansProtoNet:
        if kind != "classification":
            raise UnsupportedError("SoftKMeansProtoNet compares class prototypes: for regression use MAML")
        return cls(MLP(8, hidden=(32,), out_features=16))


def class_sums(support: Examples) -> tuple[Tensor, Tensor]:
    """The sum of each class's features `[..., way, d]` and how many there are `[..., way]`."""
    x = first_tensor(support.x)
    labels = one_hot(support, x.dtype)
    return labels.transpose(-1, -2) @ x, labels.sum(-2)


def moved(sums: Tensor, counts: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """The class means with weighted examples added: a step of soft k-means (eq. 4).

    Args:
        sums: of the labelled features, `[..., way, d]`.
        counts: of the labelled examples, `[..., way]`.
        x: further features `[..., m, d]`.
        weights: `[..., m, way]`.

    Returns:
        `[..., way, d]`; without weights the class means, as `class_means` has them.
    """
    total = (counts + weights.sum(-2)).clamp(min=1)
    return (sums + weights.transpose(-1, -2) @ x) / total.unsqueeze(-1)
