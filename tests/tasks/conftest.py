from __future__ import annotations

import pytest
from episode_checks import make_pool

from kshot.datasets import Pool


@pytest.fixture
def pool() -> Pool:
    """8 classes of 20 images, 4 x 4 pixels."""
    return make_pool([20] * 8)
