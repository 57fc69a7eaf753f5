"""Commands that work at a server: `kshot adapt` and `predict` with `--server`, `kshot tasks`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import Kshot
from PIL import Image
from serving_toys import Letters, Server

from kshot.serving.served import ServedModel
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    database = Database(f"sqlite:///{tmp_path}/kshot.db")
    migrate(database)
    with Server(database, {"characters": ServedModel.load("characters")}, tmp_path).running() as running:
        monkeypatch.setenv("KSHOT_KEY", running.secret)
        monkeypatch.setenv("KSHOT_SERVER", f"http://127.0.0.1:{running.port}")
        yield running
    database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five letters, five files each, and queries."""
    letters = Letters()
    for i, (x, label) in enumerate(zip(letters.x, letters.y, strict=True)):
        path = tmp_path / "letters" / f"c{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(x)).save(path)
    queries = tmp_path / "queries"
    queries.mkdir()
    for i in range(5):
        Image.fromarray(np.asarray(letters.queries[i])).save(queries / f"{i} is {letters.targets[i]}.png")
    return tmp_path


def test_a_task_of_a_server_from_the_command_line(server: Server, folder: Path, kshot: Kshot) -> None:
    said = kshot("adapt", "characters", "--support", folder / "letters", "--unlabeled", folder / "queries").stdout
    assert "version 1: 25 examples of 5 classes" in said
    assert "Each example left out in turn is told right in" in said
    assert "To label next: " in said
    [listed] = json.loads(kshot("tasks", "list", "--json").stdout)
    task = listed["id"]
    assert listed["name"] == "letters"
    rows = json.loads(kshot("predict", task, folder / "queries", "--json").stdout)
    assert len(rows) == 5
    right = sum(row["label"] == Path(row["file"]).stem.rpartition(" ")[2] for row in rows)
    assert right >= 4
    assert len(kshot("predict", task, folder / "queries", "--top", 1).stdout.splitlines()) == 5
    assert "version 2: 50 examples" in kshot("tasks", "add", task, "--support", folder / "letters").stdout
    assert "version 3: 49 examples" in kshot("tasks", "forget", task, 1).stdout
    shown = kshot("tasks", "show", task).stdout
    assert "delete" in shown
    assert "49 examples" in shown
    assert "version 4: 24 examples" in kshot("tasks", "rollback", task, 1).stdout
    query = next((folder / "queries").glob("0 is *"))
    truth = query.stem.rpartition(" ")[2]
    assert f"It was {truth}" in kshot("tasks", "feedback", task, truth, "--query", query).stdout
    assert "wrong" in kshot("tasks", "feedback", task, "c0", "--predicted", "c1").stdout
    health = kshot("tasks", "health", task).stdout
    assert "Right in" in health
    assert "of 2 that were judged" in health
    # Downloaded, it says what the server says.
    kshot("tasks", "download", task)
    here = json.loads(
        kshot("predict", "task.safetensors", folder / "queries", "--json", env={"KSHOT_SERVER": ""}).stdout
    )
    there = json.loads(kshot("predict", task, folder / "queries", "--json").stdout)
    assert [row["label"] for row in here] == [row["label"] for row in there]
    assert "is deleted" in kshot("tasks", "delete", task).stdout
    assert json.loads(kshot("tasks", "list", "--json").stdout) == []


def test_what_goes_wrong(server: Server, folder: Path, kshot: Kshot, monkeypatch: Any) -> None:
    gone = "task_000000000000000000000000"
    assert f"there is no task {gone}" in kshot("tasks", "show", gone, code=1).stderr
    assert "there is no model 'chars'. Did you mean" in (
        kshot("adapt", "chars", "--support", folder / "letters", code=1).stderr
    )
    assert "expected --query FILE or --predicted LABEL" in kshot("tasks", "feedback", gone, "cat", code=2).stderr
    (folder / "table.csv").write_text("label,a\nx,1\n")
    assert "is a table" in kshot("adapt", "characters", "--support", folder / "table.csv", code=1).stderr
    monkeypatch.setenv("KSHOT_KEY", "ks_wrong")
    assert "expected a valid key" in kshot("tasks", "list", code=1).stderr


def test_tasks_of_a_server_as_a_dataset(server: Server, folder: Path, kshot: Kshot) -> None:
    place = folder / "kshot.db"
    url = f"sqlite:///{place}"
    assert "there is no file" in kshot("data", "from-server", "--out", "asked", "--database", url, code=2).stderr
    settings = folder / "server.yaml"
    settings.write_text(f"database: {url}\nmaster_key: {folder}/kshot.key\n")
    kshot("adapt", "characters", "--support", folder / "letters")
    said = kshot("data", "from-server", "--out", "asked", "--settings", settings, code=1).stderr
    assert "a server keeps them with the setting retention: raw" in said
    assert not Path("asked").exists()
