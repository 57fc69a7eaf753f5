"""A run whose tasks are made ahead is the run whose tasks are not."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from training_toys import fit, gaussians, maml, protonet, sinusoids

from kshot.tasks import prefetch
from kshot.training import loop
from kshot.training.callbacks import Callback

CASES = {"classes": (gaussians, functools.partial(protonet, noisy=True)), "functions": (sinusoids, maml)}


def ahead(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has every training make its tasks ahead; the threads that made them."""
    threads: list[str] = []

    def prefetched(items: Any, **_: Any) -> Any:
        def noted() -> Any:
            for item in items:
                threads.append(threading.current_thread().name)
                yield item

        return prefetch.prefetched(noted(), worth=0)

    monkeypatch.setattr(loop, "prefetched", prefetched)
    return threads


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_same_run(case: str, accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source, make = CASES[case]
    weights = []
    for force in (False, True):
        threads = ahead(monkeypatch) if force else []
        learner = make()
        fit(learner, make_source(), steps=9, accumulate=accumulate, val_every=3)
        weights.append(learner.state_dict())
        assert any(name.startswith("kshot-prefetch") for name in threads) is force
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_run_that_ends_early_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            if step == 7:
                trainer.stop()

    threads = ahead(monkeypatch)
    fit(protonet(), gaussians(), steps=50, callbacks=[Stop()])
    assert 7 <= len(threads) <= 8  # one lay ready
    assert not [t for t in threading.enumerate() if t.name.startswith("kshot-prefetch")]
