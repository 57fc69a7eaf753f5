"""What is recorded is used where it can be and pays; with a GPU, it computes what was recorded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kshot.engine.cuda_graphs import Replayed, quicker

Run = Callable[..., Sequence[Tensor]]


class Clock:
    """One that functions move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Run:
        def run(*inputs: Tensor) -> Sequence[Tensor]:
            self.now += seconds
            return inputs

        return run


@pytest.mark.parametrize(("recorded", "taken"), [(1.0, True), (3.0, False)])
def test_the_quicker_one_is_taken(recorded: float, taken: bool) -> None:
    clock = Clock()
    plain, other = clock.taking(2.0), clock.taking(recorded)
    found = quicker(plain, lambda: other, [torch.ones(1)], lambda: None, clock)
    assert (found is other) is taken


def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    def record() -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")

    plain = Clock().taking(1.0)
    assert quicker(plain, record, [], lambda: None) is plain


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_function_computes_the_same() -> None:
    inputs = [torch.randn(3, 3, device="cuda") for _ in range(2)]
    replayed = Replayed(lambda a, b: [a @ b, a.sum()], inputs)
    kept = []
    for _ in range(3):
        a, b = (torch.randn(3, 3, device="cuda") for _ in range(2))
        kept.append((replayed(a, b), [a @ b, a.sum()]))
    for found, expected in itertools.chain(kept):  # earlier outputs are not written over
        torch.testing.assert_close(found, expected)
