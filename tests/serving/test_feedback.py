"""What becomes of predictions, and what belongs to a tenant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from serving_toys import Letters, Server

import kshot
from kshot.serving.calibration import log_distances, reference
from kshot.serving.health import Seen, drift
from kshot.serving.served import ServedModel
from kshot.serving.store.database import Database


def test_feedback_is_counted(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    path = f"/v1/tasks/{task}/feedback"
    for predicted in ("c0", "c0", "c1"):
        told = server.http.post(path, json={"label": "c0", "predicted": predicted}, headers=server.key)
        assert (told.status_code, told.json()["right"]) == (201, predicted == "c0")
    [said] = server.predict(task, letters.query(0))
    told = server.http.post(path, json={"label": said["label"], "query": letters.query(0)}, headers=server.key)
    assert (told.json()["predicted"], told.json()["right"]) == (said["label"], True)
    health = server.http.get(f"/v1/tasks/{task}/health", headers=server.key).json()
    assert health["feedback"]["answers"] == 4
    assert health["feedback"]["accuracy"] == 0.75
    assert health["feedback"]["low"] < 0.75 < health["feedback"]["high"]
    assert server.http.post(path, json={"label": "c0"}, headers=server.key).status_code == 422
    assert server.http.post(path, json={"label": "c0", "predicted": "c0"}, headers=server.other).status_code == 404


def test_health_is_that_of_the_version_of_now(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    rows = server.predict(task, letters.query(0), letters.query(1))
    for _ in range(2):  # of what is in memory, and of what was written down
        health = server.http.get(f"/v1/tasks/{task}/health", headers=server.key).json()
        assert health["queries"] == 2
        assert health["confidence"] == pytest.approx(sum(row["probability"] for row in rows) / 2)
        assert health["abstained"] == sum(row["abstain"] for row in rows) / 2
        assert health["drift"]["queries"] == 2
        server.service.flush()
    server.predict(task, letters.query(0))
    assert server.http.get(f"/v1/tasks/{task}/health", headers=server.key).json()["queries"] == 3
    server.http.delete(f"/v1/tasks/{task}/examples/1", headers=server.key)
    assert server.http.get(f"/v1/tasks/{task}/health", headers=server.key).json()["queries"] == 0
    server.predict(task, letters.query(0))
    server.service.flush()
    assert server.http.get(f"/v1/tasks/{task}/health", headers=server.key).json()["queries"] == 1


@pytest.mark.parametrize("shot", [1, 5])
def test_queries_of_other_classes_are_a_drift(model: ServedModel, shot: int) -> None:
    """Letters of another task in place of the task's own, fifty queries; 200 tasks of unseen scripts."""
    split = kshot.tasks.load("glyphs", way=5, shot=shot, query=10).test
    alarms = {"own": 0, "other": 0}
    tasks = 200
    episodes = split.sample(tasks + 1, seed=3)
    embedded = []
    for task in episodes:
        with torch.no_grad():
            embedded.append([model.learner.features(x).flatten(1) for x in (task.support.x, task.query.x)])  # type: ignore[arg-type]
    for t in range(tasks):
        support, y = embedded[t][0], episodes[t].support.y
        for name, queries in (("own", embedded[t][1]), ("other", embedded[t + 1][1])):
            far = float(log_distances(queries, support).sum())
            verdict = drift(Seen(queries=50, far=far), reference(support, y), model.calibrated(shot))
            assert verdict is not None
            alarms[name] += verdict["alarm"]
    assert alarms["own"] <= 0.05 * tasks
    assert alarms["other"] >= 0.8 * tasks, "of letters that may look like the task's own"
    assert drift(Seen(), 0.0, model.calibrated(shot)) is None
    assert drift(Seen(queries=5), 0.0, {}) is None


def test_what_a_tenant_has_used_and_did(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    server.predict(task, letters.query(0), letters.query(1))
    server.http.delete(f"/v1/tasks/{task}/examples/1", headers=server.key)
    server.service.flush()
    found = server.http.get("/v1/tenant", headers=server.key).json()
    assert (found["has"]["tasks"], found["has"]["examples"]) == (1, 24)
    assert found["has"]["bytes"] > 0
    used = {row["what"]: row["count"] for row in found["used"]}
    assert (used["adaptations"], used["predictions"], used["requests"]) == (2, 2, 3)
    assert found["quotas"]["tasks"] == 10_000
    lines = server.http.get("/v1/tenant/audit", headers=server.key).json()["audit"]
    assert [(line["action"], line["task"]) for line in lines] == [("delete", task), ("create", task)]
    assert all(line["key"].startswith("key_") and line["request"] for line in lines)
    page = server.http.get("/v1/tenant/audit", params={"limit": 1}, headers=server.key).json()
    rest = server.http.get("/v1/tenant/audit", params={"before": page["next"]}, headers=server.key).json()
    assert [line["action"] for line in page["audit"] + rest["audit"]] == ["delete", "create"]
    assert server.http.get("/v1/tenant/audit", headers=server.other).status_code == 403
    # What leaves no trace elsewhere does so here.
    body = {"examples": letters.examples, "queries": [letters.query(0)]}
    assert server.http.post("/v1/adapt-predict", json=body, headers=server.key).status_code == 200
    server.http.get("/v1/tenant/export", headers=server.key)
    lines = server.http.get("/v1/tenant/audit", headers=server.key).json()["audit"]
    assert [(line["action"], line["task"]) for line in lines[:2]] == [("tenant.export", None), ("adapt-predict", None)]


def test_what_prometheus_reads(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    server.predict(task, *[letters.query(i) for i in range(20)])
    server.service.cache.drop(task)
    server.predict(task, letters.query(0))
    server.service.flush()
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in server.http.get("/metrics").text.splitlines()
        if not line.startswith("#")
    }
    assert values["kshot_cached_tasks"] == 1
    assert values["kshot_cached_bytes"] > 1000
    assert values["kshot_cache_misses"] == 1
    assert values["kshot_waiting_predictions"] == values["kshot_waiting_adaptations"] == 0
    assert values['kshot_batch_examples_sum{lane="predict"}'] == 21
    assert values['kshot_batch_jobs_count{lane="adapt"}'] == 1
    for stage in ("predict", "adapt", "adapt_features", "adapt_heads", "adapt_held_out"):
        assert values[f'kshot_stage_seconds_count{{stage="{stage}"}}'] >= 1
    assert values["kshot_drift_score_count"] == 1


def test_a_tenant_takes_everything_along_and_is_erased(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples, name="mine")["id"]
    lines = server.http.get("/v1/tenant/export", headers=server.key).text.splitlines()
    documents = [json.loads(line) for line in lines]
    assert [document["kind"] for document in documents] == ["tenant", "task"] + ["example"] * 25
    assert documents[1]["name"] == "mine"
    assert [one["label"] for one in documents[2:]] == [one["label"] for one in letters.examples]
    assert len(documents[2]["x"]) == 64, "what is kept of it: its features"
    assert server.http.delete("/v1/tenant", headers=server.other).status_code == 403
    assert server.http.delete("/v1/tenant", headers=server.key).status_code == 204
    assert server.http.get(f"/v1/tasks/{task}", headers=server.key).status_code == 401, "its keys are gone as well"
    server.service.flush()
    with server.database.reading() as connection:
        for table in ("tasks", "examples", "versions", "states", "feedback", "answers"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
        assert (
            connection.exec_driver_sql("SELECT action FROM audit ORDER BY id DESC LIMIT 1").scalar() == "tenant.erase"
        )


def test_who_needs_no_key_begins_anew(database: Database, model: ServedModel, tmp_path: Path, letters: Letters) -> None:
    with Server(database, {"characters": model}, tmp_path, authentication="none").running() as server:
        task = server.create(letters.examples)["id"]
        assert server.http.delete("/v1/tenant").status_code == 204
        assert server.http.get(f"/v1/tasks/{task}").status_code == 404
        assert server.http.get("/v1/tenant").json()["has"] == {"tasks": 0, "examples": 0, "bytes": 0}
        assert server.create(letters.examples)["version"] == 1
