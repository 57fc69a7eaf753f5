"""Conv-4: the field's standard small backbone (Vinyals et al. 2016, sec. 4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from kshot.errors import UnsupportedError
from kshot.models.backbone import Backbone
from kshot.models.layout import laid_out
from kshot.models.norms import NormKind, Sequential, Statistics, make_norm
from kshot.models.pooling import MaxPool2d


class Conv4(Backbone):
    """Four blocks of 3x3 convolution, norm, ReLU and 2x2 max pooling, flattened.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        channels: filters of each block; 64 in ProtoNet, 32 in MAML's mini-ImageNet.
        image_size: side of the square images; at least 16.
        norm: `"batch"`, `"group"` or `"none"` (see `kshot.models.norms`).
        pools: how many of the blocks pool, from the first on (2 in relation networks).
        flatten: False gives the maps `[n, *out_shape]` of the last block in place of a vector.

    Raises:
        UnsupportedError: images too small to be halved that often, or another number of pools.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        image_size: int = 28,
        norm: NormKind = "batch",
        pools: int = 4,
        flatten: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= pools <= 4:
            raise UnsupportedError(f"Conv4 has four blocks: expected 0 to 4 pools, got {pools}")
        if image_size < max(1, 2**pools):
            times = {4: "four times", 3: "three times", 2: "twice", 1: "once", 0: "never"}[pools]
            raise UnsupportedError(
                f"Conv4 halves the image {times}: expected image_size of at least {2**pools}, got {image_size}"
            )
        blocks = []
        for i in range(4):
            blocks.append(
                Sequential(
                    # The norm's own shift makes the convolution's bias idle.
                    nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1, bias=norm == "none"),
                    make_norm(norm, channels),
                    # Maxima of rectified numbers are rectified maxima, of which there are a quarter as many.
                    *([MaxPool2d(2)] if i < pools else []),
                    nn.ReLU(),
                )
            )
        self.blocks = Sequential(*blocks)
        side = image_size // 2**pools
        self.flatten, self.out_shape = flatten, (channels, side, side)
        self.out_features = channels * side**2
        self.input_shape = (in_channels, image_size, image_size)

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """`[n, in_channels, size, size] -> [n, out_features]` (or `[n, *out_shape]`)."""
        z: Tensor = self.blocks(laid_out(x), statistics)
        return z.flatten(1) if self.flatten else z
