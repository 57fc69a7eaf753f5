"""What a feature network is to kshot, and the classifier that puts a head on one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot.capture import CapturedModule
from kshot.errors import UnsupportedError
from kshot.models.norms import Statistics, prepare_adapted


class Backbone(CapturedModule):
    """A feature network that remembers its constructor arguments.

    Attributes:
        out_features: size of the feature vector that `forward` returns.
        input_shape: shape of one example, for error messages (None: any).
    """

    out_features: int
    input_shape: tuple[int, ...] | None = None


class Frozen(Backbone):
    """A trained backbone that stays as it is: always in eval mode, and no gradient reaches it.

    Args:
        backbone: the module itself, not a copy of it.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.out_features, self.input_shape = backbone.out_features, backbone.input_shape

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """As the backbone's."""
        with torch.no_grad():
            out: Tensor = self.backbone(x)
        return out


class Network(nn.Module):
    """A backbone with an optional linear head: what MAML adapts as one.

    Args:
        backbone: `[n, *shape] -> [n, out_features]`.
        outputs: of the head, one a class (or value); None leaves the backbone's own output.

    Raises:
        UnsupportedError: a frozen backbone, or one whose statistics leak between tasks.
    """

    def __init__(self, backbone: nn.Module, outputs: int | None) -> None:
        super().__init__()
        if isinstance(backbone, Frozen):
            raise UnsupportedError(
                "a frozen backbone cannot be adapted, and this learner adapts all of its network: use one that shares "
                "its features among tasks, such as ANIL, or do not freeze the backbone"
            )
        self.backbone = backbone
        self.head = None if outputs is None else nn.Linear(int(backbone.out_features), outputs)  # type: ignore[arg-type]
        prepare_adapted(backbone)
        self.batch_statistics = prepare_adapted(self)

    @property
    def out_features(self) -> int:
        """Size of its output."""
        return int((self.backbone if self.head is None else self.head).out_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        z: Tensor = self.backbone(x, statistics) if self.batch_statistics else self.backbone(x)
        return z if self.head is None else self.head(z)
