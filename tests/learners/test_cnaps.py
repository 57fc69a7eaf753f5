"""CNAPs over convolutions against Requeima et al. 2019, eq. 2 and 3: channels that are scaled and shifted."""

from __future__ import annotations

import pytest
import torch
from by_hand import F64, WAY, examples, linears, mean_of, perceptron, queries, randomised
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import kshot
from kshot import Examples, models

CHANNELS, SHAPE = 16, (1, 16, 16)
UNCHANGED = [(torch.ones(CHANNELS, dtype=F64), torch.zeros(CHANNELS, dtype=F64))] * 4


class FirstRow(models.Backbone):
    """An encoder that is not the feature network."""

    def __init__(self):
        super().__init__()
        self.linear, self.out_features = nn.Linear(16, 5), 5

    def forward(self, x):
        return self.linear(x[:, 0, 0])


def cnaps(norm: str, encoder: type[FirstRow] | None = None) -> kshot.CNAPs:
    backbone = models.Conv4(1, channels=CHANNELS, image_size=16, norm=norm)
    learner = kshot.CNAPs(backbone, encoder and encoder(), hidden=6).double()
    randomised(learner)
    return learner.eval()


def in_groups(x: Tensor) -> Tensor:
    """Eight channels at a time, centred and of variance one."""
    parts = x.unflatten(1, (-1, 8))
    centred = parts - parts.mean((2, 3, 4), keepdim=True)
    return (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)


def features(backbone: models.Conv4, x: Tensor, film: list[tuple[Tensor, Tensor]], support: Examples) -> Tensor:
    """FiLM(f) = gamma f + beta of every map, between a block's norm and its rectifier.

    A batch norm's statistics are those of the support's real examples, which go the same way.
    """
    seen = support.x[support.mask]
    for block, (gamma, beta) in zip(backbone.blocks, film, strict=True):
        convolution, norm = block[0], block[1]
        x, seen = (F.conv2d(part, convolution.weight, padding=1) for part in (x, seen))
        if isinstance(norm, nn.GroupNorm):
            x, seen = in_groups(x), in_groups(seen)
        else:
            mean = seen.mean((0, 2, 3), keepdim=True)
            deviation = ((seen - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
            x, seen = (x - mean) / deviation, (seen - mean) / deviation
        # The layer's own scale comes first, and its own shift is not scaled: that is what is made for the task.
        scale, shift = gamma * norm.weight, norm.bias + beta
        x, seen = (F.max_pool2d((part * scale[:, None, None] + shift[:, None, None]).relu(), 2) for part in (x, seen))
    return x.flatten(1)


@pytest.mark.parametrize(("norm", "encoder"), [("group", None), ("group", FirstRow), ("batch", None)])
def test_a_tasks_embedding_scales_and_shifts_the_maps_and_class_means_make_the_head(norm, encoder):
    learner, support, x = cnaps(norm, encoder), examples(*SHAPE), queries(*SHAPE)
    backbone = learner.network.backbone
    with torch.no_grad():
        if encoder is None:
            encoded = features(backbone, support.x, UNCHANGED, support)
        else:
            encoded = learner.encoder.backbone(support.x)
        generated = perceptron(linears(learner.modulation), encoded[support.mask].mean(0)).view(4, 2, CHANNELS)
        film = [(1 + factor, shift) for factor, shift in generated]
        z, asked = (features(backbone, part, film, support) for part in (support.x, x))
        found = learner.predict(learner.adapt(support), x)
        for k in range(WAY):
            head = perceptron(linears(learner.head), mean_of(support.replace_x(z), k))
            expected = asked @ head[:-1] / CHANNELS**0.5 + head[-1]
            torch.testing.assert_close(found[:, k], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (-1.0, 0.0), (-1.0, 0.25)])
def test_a_factor_doubles_the_maps_or_leaves_the_shift_alone(factor, shift):
    """Made factors are added to one: the maps of the last block twice, or not at all."""
    learner, support, x = cnaps("group"), examples(*SHAPE), queries(*SHAPE)
    norm = "backbone.blocks.3.1"
    with torch.no_grad():
        learner.network.get_parameter(f"{norm}.bias").zero_()
        for p in learner.modulation.parameters():
            p.zero_()
        plain = learner.network(x)
        turns = dict(zip(learner.sizes, learner.modulation[-1].bias.split(list(learner.sizes.values())), strict=True))
        turns[f"{norm}.weight"].fill_(factor)
        turns[f"{norm}.bias"].fill_(shift)
        found = functional_call(learner.network, learner.adapt(support)["parameters"], (x,))
        torch.testing.assert_close(found, (1 + factor) * plain + shift)


def test_a_classs_weights_are_made_of_its_own_examples_alone():
    """But for the modulation, which is the task's; where it changes nothing the other classes stay as they are."""
    learner, support = cnaps("group"), examples(*SHAPE)
    with torch.no_grad():
        for p in learner.modulation.parameters():
            p.zero_()
        other = support.replace_x(torch.where((support.y == 0)[:, None, None, None], -support.x, support.x))
        a, b = learner.adapt(support), learner.adapt(other)
    for part in ("head", "bias"):
        torch.testing.assert_close(a[part][1:], b[part][1:])
        assert not torch.allclose(a[part][0], b[part][0])
