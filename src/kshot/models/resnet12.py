"""ResNet-12: the field's larger backbone (Oreshkin et al. 2018; widths of Lee et al. 2019, sec. 4.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from kshot.errors import UnsupportedError
from kshot.models.backbone import Backbone
from kshot.models.norms import NormKind, Sequential, Statistics, make_norm
from kshot.models.pooling import MaxPool2d


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside a 1x1 one, added, leaky ReLU (0.1), 2x2 max pooling."""

    def __init__(self, in_channels: int, channels: int, norm: NormKind) -> None:
        super().__init__()
        bias = norm == "none"
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [
                nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1, bias=bias),
                make_norm(norm, channels),
            ]
            if i < 2:
                layers.append(nn.LeakyReLU(0.1))
        self.residual = Sequential(*layers)
        self.shortcut = Sequential(nn.Conv2d(in_channels, channels, 1, bias=bias), make_norm(norm, channels))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), MaxPool2d(2))

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        out: Tensor = self.end(self.residual(x, statistics) + self.shortcut(x, statistics))
        return out


class ResNet12(Backbone):
    """Four residual blocks and a mean over space.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        widths: filters of the four blocks; (64, 160, 320, 640) as in MetaOptNet.
        image_size: side of the square images; at least 16.
        norm: `"batch"`, `"group"` or `"none"` (see `kshot.models.norms`).
        pool: mean over space at the end; without it the last map is flattened.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        image_size: int = 84,
        norm: NormKind = "batch",
        pool: bool = True,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise UnsupportedError(
                f"ResNet12 halves the image four times: expected image_size of at least 16, got {image_size}"
            )
        sizes = [in_channels, *widths]
        self.blocks = nn.ModuleList(ResidualBlock(a, b, norm) for a, b in itertools.pairwise(sizes))
        self.pool = pool
        self.out_features = sizes[-1] * (1 if pool else (image_size // 2 ** len(widths)) ** 2)
        self.input_shape = (in_channels, image_size, image_size)

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """`[n, in_channels, size, size] -> [n, out_features]`."""
        for block in self.blocks:
            x = block(x, statistics)
        return x.mean((-2, -1)) if self.pool else x.flatten(1)
