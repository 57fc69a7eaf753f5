"""Peak memory: of known allocations, and of learners whose memory grows or does not grow with inner steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import kshot
from kshot.engine import peak_memory, task_losses, tensor_bytes
from kshot.errors import UnsupportedError
from kshot.testing.toys import gaussian_episodes

MILLION = 4_000_000  # bytes of a million float32


def test_known_allocations():
    def one_after_another() -> None:
        for _ in range(5):
            torch.ones(1_000_000)

    def together() -> list[Tensor]:
        return [torch.ones(1_000_000) for _ in range(5)]

    def rise_and_fall() -> Tensor:
        parts = [torch.ones(1_000_000) for _ in range(3)]
        total = torch.stack(parts)
        del parts
        return total.sum()

    assert peak_memory(one_after_another) == MILLION
    assert peak_memory(together) == 5 * MILLION
    assert peak_memory(rise_and_fall) == pytest.approx(6 * MILLION, abs=100)


def test_what_was_there_before_does_not_count():
    held = torch.ones(1_000_000)
    assert peak_memory(lambda: held.add_(1)) < 1000
    assert peak_memory(lambda: held + 1) == pytest.approx(MILLION, abs=100)


def test_a_graph_is_memory():
    x = torch.ones(1_000_000, requires_grad=True)

    def powers(count: int) -> Tensor:
        y = x
        for _ in range(count):
            y = y * y
        return y.sum()

    assert peak_memory(lambda: powers(10).detach()) == pytest.approx(10 * MILLION, rel=0.01)
    with torch.no_grad():
        assert peak_memory(lambda: powers(10)) <= 2 * MILLION + 100


def test_a_device_that_records_nothing():
    with pytest.raises(UnsupportedError, match="expected the device cpu or cuda to measure memory on, got mps"):
        peak_memory(lambda: None, "mps")


def test_bytes_of_a_pytree():
    tree = {"a": torch.zeros(3, 4), "b": [torch.zeros(2, dtype=torch.int64), "text", 7]}
    assert tensor_bytes(tree) == 3 * 4 * 4 + 2 * 8


def test_imaml_forgets_the_way_and_maml_does_not():
    episodes = gaussian_episodes(2)

    def peak(cls: type[kshot.Learner], steps: int) -> int:
        learner = cls(kshot.models.MLP(8, hidden=(32,)), way=5, inner_steps=steps)
        return peak_memory(lambda: task_losses(learner, episodes, "loop").mean().backward())

    assert peak(kshot.IMAML, 50) < 1.3 * peak(kshot.IMAML, 5)
    assert peak(kshot.MAML, 50) > 4 * peak(kshot.MAML, 5)
