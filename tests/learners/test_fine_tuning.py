"""Fine-tuning on the support against plain torch: what is trained, from where, and how."""

from __future__ import annotations

import copy

import pytest
import torch
from by_hand import F64, WAY, cross_entropy, examples, queries, randomised
from torch import nn

import kshot
from kshot import Examples, models

SHAPE, LENGTH = (1, 16, 16), 3.0


def tuning(layers: str, **options) -> kshot.FineTuning:
    """In eval mode, over a batch norm that has seen something."""
    backbone = models.Conv4(1, channels=4, image_size=16)
    learner = kshot.FineTuning(backbone, layers=layers, **options).double()
    randomised(learner)
    with torch.no_grad():
        for block in backbone.blocks:
            block[1].running_mean.copy_(queries(n=4, seed=3))
            block[1].running_var.copy_(1 + queries(n=4, seed=4).square())
        learner.statistics.variance.fill_(LENGTH**2 / 4)  # of each of four features
    return learner.eval()


def given(learner: kshot.FineTuning, task: Examples) -> Examples:
    with torch.no_grad():
        return task.replace_x(learner.features(task.x))


@pytest.mark.parametrize("layers", ["head", "all"])
def test_the_first_head_is_the_optimum_of_a_penalised_logistic_regression(layers):
    """There the gradient of cross entropy + 0.01 / 2 |w|^2 is zero, of features in units of their length and a bias
    that is one of the weights."""
    learner, support = tuning(layers), examples(*SHAPE)
    head = learner.adapt(given(learner, support), steps=0)
    with torch.no_grad():
        z = learner.backbone(support.x) / LENGTH
    w, b = (part.detach().requires_grad_() for part in (head["weight"] * LENGTH, head["bias"]))
    loss = cross_entropy(z @ w + b, support) + 0.005 * (w.square().sum() + b.square().sum())
    gradients = torch.autograd.grad(loss, [w, b])
    assert float(w.detach().abs().max()) > 0.1
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-8)


def tuned_by_torch(learner: kshot.FineTuning, support: Examples, layers: str, steps: int, lr: float):
    """torch's Adam on a copy of the network in eval mode, and on a head that begins where the learner's does."""
    backbone = copy.deepcopy(learner.backbone)
    first = learner.adapt(given(learner, support), steps=0)
    head = [nn.Parameter(first[name].detach().clone()) for name in ("weight", "bias")]
    optimizer = torch.optim.Adam([*head, *(backbone.parameters() if layers == "all" else [])], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(backbone(support.x) @ head[0] + head[1], support).backward()
        optimizer.step()
    return backbone, head


@pytest.mark.parametrize("layers", ["head", "all"])
@pytest.mark.parametrize("asked", [False, True])
def test_the_head_alone_or_everything_goes_on_as_torchs_adam_would(layers, asked):
    learner, support, x = tuning(layers, steps=6, lr=0.02), examples(*SHAPE), queries(*SHAPE)
    steps, lr = (3, 0.05) if asked else (6, 0.02)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    adapted = learner.adapt(given(learner, support), **({"steps": steps, "lr": lr} if asked else {}))
    backbone, head = tuned_by_torch(learner, support, layers, steps, lr)

    own = {f"backbone.{name}": p for name, p in backbone.named_parameters()} if layers == "all" else {}
    expected = {**own, "weight": head[0], "bias": head[1]}
    assert set(adapted) == set(expected)
    start = {**before, **learner.adapt(given(learner, support), steps=0)}
    for name, value in expected.items():
        torch.testing.assert_close(adapted[name], value.detach(), rtol=1e-7, atol=1e-9)
        assert not torch.allclose(adapted[name], start[name], atol=1e-3), name
    with torch.no_grad():
        found = learner.predict(adapted, learner.features(x))
        torch.testing.assert_close(found, backbone(x) @ head[0] + head[1], rtol=1e-7, atol=1e-8)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_steps_the_network_stays_as_it_is():
    learner, support = tuning("all"), examples(*SHAPE)
    adapted = learner.adapt(support, steps=0)
    for name, p in learner.backbone.named_parameters():
        assert torch.equal(adapted[f"backbone.{name}"], p)
    assert adapted["weight"].shape == (4, WAY) and adapted["weight"].dtype == F64
