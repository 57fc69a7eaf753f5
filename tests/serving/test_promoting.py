"""A model takes the place of another: its tasks move to it, and can go back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_toys import Letters, Server

from kshot.artifacts import load_learner
from kshot.serving.app import FLUSH_SECONDS
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.store import registry, tasks
from kshot.serving.store.database import Database


@pytest.fixture(scope="module")
def refined(tmp_path_factory: Any) -> str:
    """Another model of the same kind: the shipped one, its weights a little moved."""
    learner, _ = load_learner("characters")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path_factory.mktemp("refined") / "refined"
    learner.save_pretrained(path)
    return str(path)


@pytest.fixture
def raw(database: Database, model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("kshot.serving.app.FLUSH_SECONDS", 0.05)
    database.write(
        lambda c: registry.add(c, digest=model.digest, name="characters", path="characters", info={})
    ).result()
    with Server(database, {"characters": model}, tmp_path, retention="raw").running() as server:
        yield server


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline


def promote(server: Server, path: str) -> str:
    digest = ServedModel.load(path).digest
    change = {"digest": digest, "name": "characters", "path": path, "info": {}}
    server.database.write(lambda c: registry.promote(c, **change)).result()
    return digest


def test_tasks_move_to_a_promoted_model_and_back(raw: Server, refined: str, letters: Letters) -> None:
    made = [raw.create(letters.examples)["id"] for _ in range(20)]
    before = raw.predict(made[0], letters.query(0))[0]["probabilities"]
    digest = promote(raw, refined)

    def moved() -> bool:
        return all(raw.http.get(f"/v1/tasks/{id_}", headers=raw.key).json()["version"] == 2 for id_ in made)

    until(moved)
    [about] = raw.http.get("/v1/models", headers=raw.key).json()["models"]
    assert about["digest"] == digest
    versions = raw.http.get(f"/v1/tasks/{made[0]}/versions", headers=raw.key).json()["versions"]
    assert [(v["reason"], v["current"]) for v in versions] == [("promote", True), ("create", False)]
    after = raw.predict(made[0], letters.query(0))[0]["probabilities"]
    assert after != before
    fresh = raw.create(letters.examples)["id"]
    assert raw.predict(fresh, letters.query(0))[0]["probabilities"] == after, "as if it had been made with it"
    # Back: the old model is still there for its version.
    back = raw.http.post(f"/v1/tasks/{made[0]}/rollback", json={"version": 1}, headers=raw.key)
    assert back.status_code == 200
    assert raw.predict(made[0], letters.query(0))[0]["probabilities"] == before


def test_tasks_of_which_features_are_kept_stay_with_their_model(
    server: Server, model: ServedModel, refined: str, letters: Letters
) -> None:
    known = {"digest": model.digest, "name": "characters", "path": "characters", "info": {}}
    server.database.write(lambda c: registry.add(c, **known)).result()
    made = server.create(letters.examples)["id"]
    before = server.predict(made, letters.query(0))
    promote(server, refined)
    until(lambda: server.service.models["characters"].path == refined)
    assert server.predict(made, letters.query(0)) == before
    assert server.http.get(f"/v1/tasks/{made}", headers=server.key).json()["version"] == 1
    with server.database.reading() as connection:
        assert [known.digest for known in registry.replaced(connection)] == [model.digest], "a restart loads it, too"
    more = server.http.post(f"/v1/tasks/{made}/examples", json={"examples": letters.examples[:1]}, headers=server.key)
    assert more.status_code == 200, "with the model that it is of"
    assert FLUSH_SECONDS > 1
    with server.database.reading() as connection:
        assert not tasks.behind(connection, "characters", server.service.models["characters"].digest, "", 9), (
            "too little is kept of it to try"
        )


def test_a_model_that_was_loaded_for_its_tasks_is_measured_when_it_is_promoted(
    raw: Server, refined: str, letters: Letters
) -> None:
    async def known(digest: str) -> bool:
        return await raw.service.knows(digest)

    change = {"digest": ServedModel.load(refined).digest, "name": "other", "path": refined, "info": {}}
    raw.database.write(lambda c: registry.add(c, **change)).result()
    assert asyncio.run(known(change["digest"]))
    assert change["digest"] not in raw.service.paces
    digest = promote(raw, refined)
    until(lambda: raw.service.models["characters"].digest == digest)
    assert raw.create(letters.examples, latency_ms=60_000)["chosen"]["model"] == "characters"


def test_a_promotion_while_no_server_runs_is_made_up_for(
    database: Database, model: ServedModel, refined: str, tmp_path: Path, letters: Letters
) -> None:
    with Server(database, {"characters": model}, tmp_path, retention="raw").running() as server:
        made, back, key = server.create(letters.examples)["id"], server.create(letters.examples)["id"], server.key
        assert server.http.post(f"/v1/tasks/{back}/rollback", json={"version": 1}, headers=key).json()["version"] == 2
    later = Server.__new__(Server)
    later.database, later.key = database, key
    later.service = Service(server.service.settings, {"characters": model}, database, server.service.vault)
    later.service.adopt(ServedModel.load(refined, "characters"))
    with later.running() as again:
        until(lambda: again.http.get(f"/v1/tasks/{made}", headers=key).json()["version"] == 2)
        assert again.http.get(f"/v1/tasks/{back}", headers=key).json()["version"] == 2, "it was taken back on purpose"
