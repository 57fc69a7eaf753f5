"""Multi-layer perceptron: the regressor of MAML's sinusoid experiment, and the feature network of tables."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kshot.errors import UnsupportedError
from kshot.models.backbone import Backbone

_activations = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


class MLP(Backbone):
    """Linear layers with an activation between them.

    Args:
        in_features: size of an input vector.
        hidden: sizes of the hidden layers; two of 40 by default (Finn et al. 2017, sec. 5.1).
        out_features: size of a last linear layer; None ends with the last hidden layer's activation.
        activation: `"relu"`, `"tanh"`, `"gelu"` or `"silu"`.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (40, 40),
        out_features: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in _activations:
            raise UnsupportedError(f"expected an activation of {sorted(_activations)}, got {activation!r}")
        layers: list[nn.Module] = []
        size = in_features
        for width in hidden:
            layers += [nn.Linear(size, width), _activations[activation]()]
            size = width
        if out_features is not None:
            layers.append(nn.Linear(size, out_features))
            size = out_features
        self.layers = nn.Sequential(*layers)
        self.out_features = size
        self.input_shape = (in_features,)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, in_features] -> [n, out_features]`."""
        out: Tensor = self.layers(x)
        return out
