"""Norm layers with a scale and a shift of their own for each inner step."""

from __future__ import annotations

from torch import Tensor, nn

from kshot.errors import UnsupportedError
from kshot.models.norms import TaskBatchNorm

Weights = dict[str, Tensor]


def norm_parameters(network: nn.Module) -> list[str]:
    """The names of the scales and shifts of a network's norm layers."""
    own = {id(p) for m in network.modules() if isinstance(m, (TaskBatchNorm, nn.GroupNorm)) for p in m.parameters()}
    return [name for name, p in network.named_parameters() if id(p) in own]


class StepNorms(nn.Module):
    """A scale and a shift of every norm layer for each inner step (MAML++, sec. 4: per-step batch normalisation weights
    and biases).

    Args:
        network: whose norm layers they are; its own scales and shifts are where they begin, and are no longer used.
        rows: how many steps there are; later ones share the last.

    Raises:
        UnsupportedError: it has no norm layers.
    """

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.names = norm_parameters(network)
        if not self.names:
            raise UnsupportedError(
                "step_norms asks for a scale and a shift of each norm layer, and the network has no norm layers: "
                "build the backbone with norm='batch' or 'group', or leave step_norms out"
            )
        parameters = dict(network.named_parameters())
        self.values = nn.ParameterList([parameters[name].detach().expand(rows, -1).clone() for name in self.names])
        for name in self.names:
            parameters[name].requires_grad_(False)

    def forward(self, step: int) -> Weights:
        """Those of a step, by the names that they have in the network."""
        return {name: v[min(step, len(v) - 1)] for name, v in zip(self.names, self.values, strict=True)}

    def without(self, weights: Weights) -> Weights:
        """The other weights: those that inner steps adapt."""
        return {name: value for name, value in weights.items() if name not in self.names}
