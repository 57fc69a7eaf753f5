"""Learners to save."""

from __future__ import annotations

import pytest
import torch

import kshot
from kshot import models
from kshot.datasets import ImageTransform
from kshot.randomness import seeded


@pytest.fixture
def protonet():
    with seeded(0):
        return kshot.ProtoNet(models.MLP(2, hidden=(8,))).eval()


@pytest.fixture
def maml():
    """One with images, running statistics and a transform."""
    with seeded(0):
        learner = kshot.MAML(models.Conv4(1, channels=4, image_size=16), way=3, inner_lr=0.1, inner_steps=2)
    learner.transform = ImageTransform((16, 16), polarity="auto", mean=(0.1,), std=(0.3,))
    return learner.eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (9, 1, 16, 16), dtype=torch.uint8, generator=generator)
