"""Whatever learner of classes a run holds, the server makes tasks with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_toys import Server

import kshot
from kshot.artifacts import from_pretrained
from kshot.learners import all_learners
from kshot.randomness import seeded
from kshot.serving.served import ServedModel
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate
from kshot.testing import kinds_of, toy_episodes

WAY = 3
NAMES = sorted(name for name, cls in all_learners().items() if "classification" in kinds_of(cls))


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    """One that serves one of each."""
    folder: Path = tmp_path_factory.mktemp("every")
    models = {}
    for name in NAMES:
        with seeded(0):
            all_learners()[name].tiny("classification").save_pretrained(folder / name)
        models[name] = ServedModel.load(folder / name)
    database = Database(f"sqlite:///{folder}/kshot.db")
    migrate(database)
    with Server(database, models, folder, checks="none", retention="raw").running() as running:
        yield running
    database.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_task_of_any_learner(server: Server, name: str, tmp_path: Path) -> None:
    episode = toy_episodes("classification", tasks=1, way=WAY, shot=3, query=2, seed=1)[0]
    support, query = episode.support, episode.query
    assert isinstance(support.x, torch.Tensor)
    assert isinstance(query.x, torch.Tensor)
    labels = [f"class {y}" for y in support.y.tolist()]
    examples = [
        {"x": x, "dtype": "float32", "label": label} for x, label in zip(support.x.tolist(), labels, strict=True)
    ]
    made = server.create(examples[:-1], model=name)
    task = made["id"]
    assert made["classes"] == sorted(set(labels))
    # One more, and away with it: what is predicted is what the learner says without a server.
    more = server.http.post(f"/v1/tasks/{task}/examples", json={"examples": examples[-1:]}, headers=server.key)
    assert (more.status_code, more.json()["examples"]) == (200, len(examples))
    for wanted in (len(examples), len(examples) - 1):
        if wanted < len(examples):
            gone = server.http.delete(f"/v1/tasks/{task}/examples/{len(examples)}", headers=server.key)
            assert (gone.status_code, gone.json()["examples"]) == (200, wanted)
        queries = [{"x": x, "dtype": "float32"} for x in query.x.tolist()]
        said = server.predict(task, *queries)
        learner = from_pretrained(server.service.models[name].path)
        model = kshot.adapt(learner, (support.x[:wanted], labels[:wanted]))
        alone = model.probabilities(query.x)
        got = torch.tensor([[one["probabilities"][label] for label in model.labels] for one in said])
        torch.testing.assert_close(got, alone.to(got.dtype), atol=2e-3, rtol=0)
    file = tmp_path / "task.safetensors"
    file.write_bytes(server.http.get(f"/v1/tasks/{task}/model", headers=server.key).content)
    again = kshot.AdaptedModel.load(file, learner)
    torch.testing.assert_close(again.probabilities(query.x), alone, atol=2e-3, rtol=0)
