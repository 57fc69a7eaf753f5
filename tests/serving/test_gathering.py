"""Stored tasks as a dataset: what was asked, whole, and nothing that was erased."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving_toys import Letters, Server

import kshot
from kshot.errors import ConfigError, DataError
from kshot.serving.gathering import folder_name, gather, split_of
from kshot.serving.served import ServedModel
from kshot.serving.store.database import Database


def place_of(out: Path, task: str) -> Path:
    """The folder of a task: in its split, where there are tasks enough for splits."""
    found = next(out.rglob(task))
    assert found.parent.name in (split_of(task), out.name)
    return found


def pixels(out: Path) -> list[Any]:
    return sorted(np.asarray(Image.open(path)).tobytes() for path in out.rglob("*.png"))


def test_what_was_asked_is_a_task_source(
    database: Database, model: ServedModel, tmp_path: Path, letters: Letters
) -> None:
    with Server(database, {"characters": model}, tmp_path, retention="raw").running() as server:
        out, vault = tmp_path / "asked", server.service.vault
        with pytest.raises(DataError, match=r"there are no stored images to gather \(no tasks\)"):
            gather(database, vault, out)
        made = [server.create(Letters(seed).examples) for seed in range(12)]
        task = made[0]["id"]
        label = made[0]["classes"][0]
        body = {"label": label, "query": letters.query(0)}
        assert server.http.post(f"/v1/tasks/{task}/feedback", json=body, headers=server.key).status_code == 201
        names = ["../up", "../up", "a/b", "a/b", "alone"]
        few = [letters.examples[i] for i in (0, 1, 5, 6, 10)]
        odd = server.create([{**x, "label": name} for x, name in zip(few, names, strict=True)])
        found = gather(database, vault, out)
        assert sum(found.tasks.values()) == 13
        assert (found.examples, found.feedback) == (12 * 25 + 4, 1)
        assert {place.name for place in place_of(out, odd["id"]).iterdir()} == {"%2E.%2Fup", "a%2Fb"}
        assert found.left == {"the only one of its class": 1}
        assert json.loads((out / "gathered.json").read_text())["examples"] == found.examples
        # Negatives are of the models that store them.
        plain, other = pixels(out), tmp_path / "other"
        gather(database, vault, other, inverted={"letters"})
        assert pixels(other) == plain
        gather(database, vault, other, inverted={"characters"})
        assert pixels(other) == sorted(bytes(255 - b for b in one) for one in plain)
        # What the server stored is what is read again.
        first = place_of(out, task) / folder_name(label)
        assert len(list(first.iterdir())) == 6, "five examples, and the query"
        assert sum(len(list(place.iterdir())) for place in out.rglob("task_*")) == 12 * 5 + 2
        source = kshot.tasks.load(str(out), way=2, shot=1, query=1)
        assert {name.partition("/")[0] for name in source.train.pool.names} <= {one["id"] for one in made} | {odd["id"]}
        # One is forgotten, one task deleted: the next gathering knows nothing of either.
        before = pixels(out)
        server.http.delete(f"/v1/tasks/{task}/examples/3", headers=server.key)
        server.http.delete(f"/v1/tasks/{made[1]['id']}", headers=server.key)
        again = gather(database, vault, out)
        assert again.examples == found.examples - 26
        assert len(pixels(out)) == len(before) - 26
        assert not list(out.rglob(f"{made[1]['id']}*"))
        assert not list(place_of(out, task).rglob("3.png"))
        with pytest.raises(ConfigError, match=r"there is no tenant 'acm'. Did you mean 'acme'\?"):
            gather(database, vault, out, of=["acm"])
        with pytest.raises(DataError, match="no tasks"):
            gather(database, vault, out, of=["other"])
        assert pixels(out), "what was there before is there"
        (tmp_path / "mine").mkdir()
        with pytest.raises(ConfigError, match="is there, and was not gathered from a server"):
            gather(database, vault, tmp_path / "mine")


def test_features_are_no_images(server: Server, letters: Letters, tmp_path: Path) -> None:
    server.create(letters.examples)
    with pytest.raises(DataError, match="25 examples left out: features alone are kept"):
        gather(server.database, server.service.vault, tmp_path / "asked")
    assert not (tmp_path / "asked").exists()
