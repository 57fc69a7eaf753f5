"""Where a process stands among others, and which device is its own."""

from __future__ import annotations

import pytest
import torch

from kshot.errors import ConfigError
from kshot.processes import Place, place
from kshot.training.step import resolve_device

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def started(monkeypatch):
    """As torchrun starts a process; those of these names that are None are not there."""

    def start(*values: int | None) -> None:
        for name, value in zip(NAMES, values, strict=True):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))

    start(None, None, None, None)
    return start


def test_places(started):
    assert place() == Place(0, 1, 0, 1)
    started(5, 8, 1, 4)
    assert place() == Place(5, 8, 1, 4)
    started(None, 8, None, None)  # somebody's variable of this name, without torchrun
    assert place() == Place()
    started(0, 1, 0, 1)
    assert place() == Place()


def test_each_process_has_a_gpu_of_its_own(started, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    started(3, 4, 1, 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cpu") == torch.device("cpu")
    started(0, 4, 0, 4)  # wrong for all, and said by the first of them, too
    message = "torchrun started 4 processes on this machine, which has 2 GPUs, and each takes one: start as many as"
    with pytest.raises(ConfigError, match=message):
        resolve_device("auto")
