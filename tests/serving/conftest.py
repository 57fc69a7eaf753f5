from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_toys import Letters, Server

from kshot.serving.calibration import calibration_of
from kshot.serving.served import ServedModel
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate
from postgres import new_database


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: Any, tmp_path: Path) -> str:
    """An empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/kshot.db"
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture(scope="session")
def model() -> ServedModel:
    """The learner that ships with kshot, calibrated."""
    loaded = ServedModel.load("characters")
    loaded.calibration, problem = calibration_of(loaded, tasks=50)
    assert not problem
    return loaded


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def server(database: Database, model: ServedModel, tmp_path: Path) -> Iterator[Server]:
    with Server(database, {"characters": model}, tmp_path).running() as running:
        yield running


@pytest.fixture(scope="session")
def letters() -> Letters:
    return Letters()
