"""Backbones: shapes, norm policies, captured arguments."""

from __future__ import annotations

import pytest
import torch

import kshot
from kshot import models
from kshot.capture import build
from kshot.errors import ArtifactError, UnsupportedError
from kshot.models.norms import Statistics, masked_moments, prepare_adapted


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize(
    ("make", "shape", "features"),
    [
        (lambda norm: models.Conv4(1, norm=norm), (1, 28, 28), 64),
        (lambda norm: models.Conv4(3, 32, image_size=84, norm=norm), (3, 84, 84), 800),
        (lambda norm: models.Conv4(3, image_size=32, norm=norm), (3, 32, 32), 256),
        (lambda norm: models.ResNet12(3, (8, 16, 24, 32), image_size=32, norm=norm), (3, 32, 32), 32),
        (lambda norm: models.ResNet12(1, (8, 8, 8, 8), image_size=32, norm=norm, pool=False), (1, 32, 32), 32),
    ],
)
def test_shapes(make, shape, features, norm):
    net = make(norm)
    assert net.out_features == features
    assert net.input_shape == shape
    assert net(torch.randn(2, *shape)).shape == (2, features)
    assert prepare_adapted(net) is (norm == "batch")
    statistics = Statistics()
    assert net(torch.randn(2, *shape), statistics).shape == (2, features)
    assert bool(statistics.collected) is (norm == "batch")


def test_conv4_has_the_published_number_of_parameters():
    """9 * 64 * (1 + 3 * 64) weights and 2 * 4 * 64 of the norms (biases before a norm are idle and left out)."""
    assert sum(p.numel() for p in models.Conv4(1).parameters()) == 9 * 64 * (1 + 3 * 64) + 512


def test_resnet12_has_about_12_million_parameters():
    assert 12.3e6 < sum(p.numel() for p in models.ResNet12().parameters()) < 12.6e6


def test_masked_moments_are_those_of_the_real_examples():
    x, mask = torch.randn(6, 3, 4, 4), torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    mean, var = masked_moments(x, mask)
    torch.testing.assert_close(mean, x[mask].mean((0, 2, 3)))
    torch.testing.assert_close(var, x[mask].var((0, 2, 3), correction=0))


def test_task_batch_norm_equals_torchs():
    ours, theirs = models.TaskBatchNorm(3), torch.nn.BatchNorm2d(3)
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x))
    from kshot.models.norms import commit

    commit(ours)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_statistics_of_a_single_value():
    """One example of one value: a loop takes its statistics, as `vmap` does."""
    net = models.Sequential(torch.nn.Linear(1, 4), models.TaskBatchNorm(4), torch.nn.ReLU(), torch.nn.Linear(4, 1))

    class Net(models.Backbone):
        def __init__(self):
            super().__init__()
            self.layers, self.out_features = net, 1

        def forward(self, x, statistics=None):
            return self.layers(x, statistics)

    episodes = kshot.tasks.load("sinusoids", shot=1, query=3).train.sample(3, seed=0)
    learner = kshot.MAML(Net(), inner_lr=0.1)
    (losses, gradient), (found, found_gradient) = (
        kshot.engine.losses_and_gradient(learner, episodes, mode) for mode in ("loop", "vmap")
    )
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(found_gradient, gradient)


def test_arguments_are_captured_and_built_again():
    learner = kshot.MAML(models.Conv4(in_channels=3, image_size=32, norm="group"), way=7, inner_lr=0.2)
    config = learner.config
    assert config["class"] == "kshot.learners.maml.MAML"
    assert config["arguments"]["backbone"]["arguments"] == {"in_channels": 3, "image_size": 32, "norm": "group"}
    again = build(config)
    assert again.config == config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in learner.state_dict().items()}


def test_what_cannot_be_built():
    with pytest.raises(ArtifactError, match="'os.system', which is not imported"):
        build({"class": "os.system", "arguments": {}})
    with pytest.raises(ArtifactError, match="which this version of kshot does not have"):
        build({"class": "kshot.learners.none.Such", "arguments": {}})
    with pytest.raises(ArtifactError, match="does not take the saved arguments"):
        build({"class": "kshot.models.mlp.MLP", "arguments": {"depth": 3}})
    with pytest.raises(ArtifactError, match=r"MAML\(backbone=...\) holds a torch.nn.modules.container.Sequential"):
        net = torch.nn.Sequential(torch.nn.Linear(2, 2))
        net.out_features = 2
        _ = kshot.MAML(net, way=2).config


def test_refusals():
    with pytest.raises(UnsupportedError, match="image_size of at least 16, got 8"):
        models.Conv4(image_size=8)
    with pytest.raises(UnsupportedError, match="expected norm 'batch', 'group' or 'none', got 'layer'"):
        models.Conv4(norm="layer")
    with pytest.raises(UnsupportedError, match="got 'swish'"):
        models.MLP(3, activation="swish")
