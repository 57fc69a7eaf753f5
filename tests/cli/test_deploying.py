"""The last two steps of a project: its learner is served, and the server is asked how its tasks do."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_helpers import Kshot, write_images
from running_server import serving

from kshot.artifacts import load_learner
from kshot.client import Client
from kshot.metrics import Interval

PROJECT = """
out: runs/p
tasks: {data: DATA, way: 2, shot: 1, query: 3, options: {size: 16}}
learner: {choose: protonet}
backbone: {name: conv4, channels: 4}
baseline: {train: false}
training: {steps: 4, meta_batch: 2, val_every: 2, val_tasks: 10}
validate: {tasks: 6}
deploy: {settings: {calibration: 8}}
monitor: {server: null}
"""


@pytest.fixture
def project(images: Path) -> Path:
    path = Path("project.yaml")
    path.write_text(PROJECT.replace("DATA", str(images)))
    return path


def models(database: str = "runs/p/deploy/kshot.db") -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        found = connection.execute("SELECT name, digest, path, current FROM models ORDER BY created").fetchall()
    connection.close()
    return found


def test_a_project_is_deployed_and_watched(
    kshot: Kshot, project: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kshot("pipeline").stdout
    assert "served as p: kshot serve --settings runs/p/deploy/server.yaml" in first
    assert "nothing is asked: say monitor.server once it runs" in first
    [(name, digest, path, current)] = models()
    assert (name, digest, current) == ("p", load_learner("runs/p/run")[1], 1)
    assert load_learner(path)[1] == digest
    assert (Path(path) / "splits.json").is_file(), "what it has seen goes with it"

    with serving("--settings", "runs/p/deploy/server.yaml") as (http, key, _):
        assert key is not None
        monkeypatch.setenv("KSHOT_KEY", key)
        own = write_images(Path("own"), ["cat", "dog"], 6, seed=5)
        with Client(str(http.base_url)) as client:
            files = sorted(own.glob("*/*.png"))
            labels = [file.parent.name for file in files]
            made = client.create_task(files, labels, name="pets")
            client.predict(made["id"], files)
            client.feedback(made["id"], "cat", predicted="cat")
            client.feedback(made["id"], "cat", predicted="dog")
        project.write_text(project.read_text().replace("server: null", f"server: '{http.base_url}'"))
        seen = kshot("pipeline").stdout
        assert "[9/9] Monitor: its section of the project changed" in seen
        assert "1 task, 12 queries, 0 drifting, 50.0% of 2 judged answers right; in runs/p/monitor.json" in seen
        found = json.loads(Path("runs/p/monitor.json").read_text())
        assert [task["name"] for task in found["each"]] == ["pets"]
        again = kshot("pipeline").stdout
        assert "[8/9] Deploy: skipped" in again
        assert f"[9/9] Monitor: {http.base_url} is asked each time" in again
    gone = kshot("pipeline", code=1).stderr
    assert "Is the server running there?" in gone


def test_a_worse_learner_is_not_deployed(kshot: Kshot, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kshot("pipeline")
    [(_, before, path, _)] = models()
    change = Interval(-0.02, 0.01, 6)

    def beside(*_: object, tasks: int, **__: object) -> tuple[Interval, Interval, Interval]:
        assert tasks == 6
        return Interval(0.8, 0.1, 6), Interval(0.78, 0.1, 6), change

    project.write_text(project.read_text().replace("steps: 4", "steps: 5"))
    with monkeypatch.context() as patched:
        patched.setattr("kshot.evaluation.promotion.compared", beside)
        refused = kshot("pipeline", code=1).stderr
    assert "it is worse than the one that is served, by -2.00 points" in refused
    assert "raise deploy.tolerance, 0.5 points, if that is meant" in refused
    assert [one[1] for one in models()] == [before]
    # Judged by both as they are, it may be worse by as much as there is; what was served stays beside it.
    project.write_text(project.read_text().replace("deploy: {", "deploy: {tolerance: 100, "))
    said = kshot("pipeline").stdout
    assert "points (95% interval" in said
    assert "beside the one that was served, on the same unseen tasks; served as p" in said
    old, new = models()
    assert (old[1], old[3], new[3]) == (before, 0, 1)
    assert load_learner(path)[1] == before, "though its run was set aside"
    assert yaml.safe_load(Path("runs/p/deploy/server.yaml").read_text())["models"] == [f"p={new[2]}"]


@pytest.mark.parametrize(
    ("section", "code", "message"),
    [
        ("deploy: {deploy: false}", 0, "left out, as the project says"),
        ("deploy: {settings: {prot: 1}}", 2, "deploy.settings: unknown setting prot. Did you mean 'port'?"),
        ("deploy: {settings: {models: [a]}}", 2, "deploy.settings: models: the project says so elsewhere"),
        ("deploy: {tolerence: 1}", 2, "unknown key 'deploy.tolerence'. Did you mean 'tolerance'?"),
        ("deploy: {database: 'mysql://a/b'}", 2, "expected a database of SQLite or PostgreSQL"),
        ("monitor: {tasks: 0}", 2, "monitor.tasks: "),
    ],
)
def test_what_a_project_says_of_it(kshot: Kshot, project: Path, section: str, code: int, message: str) -> None:
    head = section.partition(":")[0]
    lines = [line for line in project.read_text().splitlines() if not line.startswith(head)]
    project.write_text("\n".join([*lines, section, ""]))
    result = kshot("pipeline", code=code)
    assert message in (result.stderr if code else result.stdout)
    assert (code == 0) == Path("runs/p/run").exists(), "what is wrong is said before anything is trained"
    assert not Path("runs/p/deploy/server.yaml").exists()


def test_what_cannot_be_served_is_left_out(kshot: Kshot, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as bare:
        bare.setattr("kshot.cli.deploying._can_serve", lambda: False)
        assert "left out: a server needs more, pip install 'kshot[serve]'" in kshot("pipeline").stdout
    assert "[8/9] Deploy: its section of the project changed" in kshot("pipeline").stdout


def test_values_are_not_served(kshot: Kshot) -> None:
    Path("p.yaml").write_text(
        "out: runs/s\ntasks: {data: sinusoids, shot: 5, query: 5}\nbackbone: {name: mlp, hidden: [8]}\n"
        "learner: {choose: {name: maml, inner_lr: 0.01}}\nbaseline: {train: false}\n"
        "training: {steps: 2, meta_batch: 2, val_tasks: 4, mode: vmap}\nvalidate: {tasks: 4}\n"
    )
    text = kshot("pipeline", "p.yaml").stdout
    assert "left out: expected a learner of classes to serve" in text
    assert not list(Path("runs/s/deploy").glob("models/*"))
