"""Features compiled for a server: they say what the learner says, or there are none."""

from __future__ import annotations

import pytest
import torch

import kshot
from kshot.models import MLP, Conv4, ResNet12
from kshot.randomness import seeded
from kshot.serving.frozen import frozen_features
from kshot.serving.served import ServedModel


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: Conv4(in_channels=1, channels=8, image_size=28),
        lambda: Conv4(in_channels=3, channels=8, image_size=16, norm="group"),
        lambda: ResNet12(in_channels=3, image_size=32, widths=(4, 6, 8, 10)),
        lambda: MLP(4, (16,), 8),
    ],
)
def test_features_in_one_call(backbone: object) -> None:
    with seeded(0):
        learner = kshot.ProtoNet(backbone()).train()  # type: ignore[operator]
        x = torch.randn(50, *learner.input_shape)  # type: ignore[misc]
        learner.features(x)  # statistics that are not those of the start
        frozen = frozen_features(learner.eval().requires_grad_(requires_grad=False))
        assert frozen is not None
        for n in (1, 5, 33, 50):
            with torch.no_grad():
                torch.testing.assert_close(frozen(x[:n]), learner.features(x[:n]), rtol=1e-4, atol=1e-4)


class Moody(kshot.ProtoNet):
    """Does with a batch what depends on its size."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = super().features(x)
        return z * (2.0 if len(x) > 4 else 1.0)


def test_what_cannot_be_frozen_is_left_as_it_is() -> None:
    backbone = Conv4(in_channels=1, channels=8, image_size=28)
    assert frozen_features(Moody(backbone).eval()) is None
    assert frozen_features(kshot.MAML(backbone, way=5).eval()) is None, "it shares no features"
    assert ServedModel.load("characters").frozen is not None
