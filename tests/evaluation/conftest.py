"""Task sources and learners of a few seconds' work."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from toy_sources import FEATURES, image_source, protonet, train, vector_source, vectors

import kshot
from kshot import randomness
from kshot.tasks import TaskSource


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    """These learners are too small for more: on a busy machine, threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _few_tasks_to_choose_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of baselines are chosen by fewer tasks than a user's."""
    monkeypatch.setattr("kshot.evaluation.methods.SELECTION_TASKS", 4)


@pytest.fixture(scope="session")
def clouds() -> TaskSource:
    return vector_source()


@pytest.fixture(scope="session")
def places() -> TaskSource:
    return image_source()


@pytest.fixture(scope="session")
def trained(clouds: TaskSource) -> kshot.Learner:
    return train(protonet(), clouds)


@pytest.fixture(scope="session")
def sinusoids() -> TaskSource:
    return kshot.tasks.load("sinusoids", shot=5, query=10)


@pytest.fixture(scope="session")
def regressor(sinusoids: TaskSource) -> kshot.Learner:
    with randomness.seeded(0):
        learner = kshot.MAML(kshot.models.MLP(1, out_features=1), inner_lr=0.01, inner_steps=1)
    return train(learner, sinusoids, steps=60, lr=0.003)


WriteTable = Callable[..., Path]


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    """Writes a CSV of clouds: class names to the seeds that their clouds are made of."""

    def write(names: dict[str, int], file: str = "table.csv") -> Path:
        path = tmp_path / file
        with path.open("w", newline="") as handle:
            rows = csv.writer(handle)
            rows.writerow([*(f"f{i}" for i in range(FEATURES)), "label"])
            for name, seed in names.items():
                for row in vectors(1, seed)[0]:
                    rows.writerow([*(f"{v:.6f}" for v in row.tolist()), name])
        return path

    return write
