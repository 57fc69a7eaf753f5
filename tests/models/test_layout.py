"""Images channels last: other places in memory, the same numbers."""

from __future__ import annotations

import pytest
import torch

import kshot
from kshot import engine
from kshot.models import Conv4
from kshot.models.layout import channels_last, laid_out


@pytest.mark.parametrize("channels", [1, 3])
def test_a_conv4_works_channels_last_where_that_is_wanted(channels: int) -> None:
    torch.manual_seed(0)
    network = Conv4(in_channels=channels, channels=8, image_size=16, pools=2, flatten=False).double()
    x = torch.randn(5, channels, 16, 16, dtype=torch.float64)
    found = []
    for wanted in (False, True):
        network.zero_grad()
        if wanted:
            with channels_last():
                out = network(x)
        else:
            out = network(x)
        assert out.is_contiguous(memory_format=torch.channels_last) is wanted
        out.square().sum().backward()
        found.append([out.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_vectors_stay_as_they_are() -> None:
    x = torch.randn(5, 7)
    with channels_last():
        assert laid_out(x) is x
    image = torch.randn(2, 3, 4, 4)
    assert laid_out(image) is image, "nothing is laid out anew outside"


def test_shared_features_are_computed_channels_last() -> None:
    seen = []

    class Noting(Conv4):
        def forward(self, x, statistics=None):  # type: ignore[no-untyped-def]
            seen.append(laid_out(x) is not x)
            return super().forward(x, statistics)

    learner = kshot.ProtoNet(Noting(channels=4, image_size=16))
    x = torch.randn(3, 1, 16, 16)
    engine.compute_features(learner, x)
    learner.features(x)
    assert seen == [True, False]
