"""The server as its users meet it: over HTTP, on SQLite and on PostgreSQL."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from serving_toys import Letters, Server

from kshot.artifacts import load_adapted
from kshot.cli.predict import predict_files
from kshot.serving.store import access, tables


def png(x: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(x)).save(buffer, format="PNG")
    return buffer.getvalue()


def probabilities(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    return np.array([list(row["probabilities"].values()) for row in rows])


def test_a_few_examples_make_a_model(server: Server, letters: Letters) -> None:
    made = server.create(letters.examples, name="letters")
    assert made["classes"] == ["c0", "c1", "c2", "c3", "c4"]
    assert (made["version"], made["examples"], made["name"], made["model"]) == (1, 25, "letters", "characters")
    assert {"features", "adapt", "held_out", "total"} <= made["timings_ms"].keys()
    left_out = made["leave_one_out"]
    assert left_out["examples"] == 25
    assert left_out["low"] < left_out["accuracy"] < left_out["high"]
    rows = server.predict(made["id"], *[letters.query(i) for i in range(25)], nearest=2)
    right = sum(row["label"] == target for row, target in zip(rows, letters.targets, strict=True))
    assert right >= 20
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values())
        assert [near["distance"] for near in row["nearest"]] == sorted(near["distance"] for near in row["nearest"])
    # One query is a body of its own; it is predicted as among others.
    alone = server.http.post(f"/v1/tasks/{made['id']}/predict", json=letters.query(0), headers=server.key).json()
    np.testing.assert_allclose(probabilities(alone["predictions"]), probabilities(rows[:1]), atol=1e-5)
    assert len(server.predict(made["id"], letters.query(0), top=2)[0]["probabilities"]) == 2


def test_a_wrong_label_is_suspected(server: Server, letters: Letters) -> None:
    examples = letters.examples
    right = examples[7]["label"]
    examples[7]["label"] = next(label for label in ("c0", "c1") if label != right)
    suspects = server.create(examples)["suspects"]
    assert 8 in [one["example"] for one in suspects]
    assert len(suspects) <= 3


def test_examples_come_as_arrays_files_or_bytes(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    x = letters.queries[0].numpy()
    encoded = base64.b64encode(png(x)).decode()
    raw = base64.b64encode(x.tobytes()).decode()
    forms: list[dict[str, Any]] = [
        {"x": x.tolist()},
        {"image": encoded},
        {"image": f"data:image/png;base64,{encoded}"},
        {"bytes": raw, "shape": [28, 28], "dtype": "uint8"},
        {"x": (x[None] / np.float32(255)).tolist(), "dtype": "float32"},
    ]
    found = [probabilities(server.predict(task, form)) for form in forms]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)
    large = np.kron(x, np.ones((4, 4), np.uint8))
    assert server.predict(task, {"x": large.tolist()})[0]["label"] == server.predict(task, forms[0])[0]["label"]


def test_image_files_in_a_multipart_body(server: Server, letters: Letters) -> None:
    files = [
        (f"examples[c{label}]", (f"{i}.png", png(x), "image/png"))
        for i, (x, label) in enumerate(zip(letters.x, letters.y, strict=True))
    ]
    answer = server.http.post("/v1/tasks", files=files, data={"request": '{"name": "files"}'}, headers=server.key)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["name"], made["examples"]) == ("files", 25)
    same = server.create(letters.examples)["id"]
    np.testing.assert_allclose(
        probabilities(server.predict(made["id"], letters.query(3))),
        probabilities(server.predict(same, letters.query(3))),
        atol=1e-5,
    )
    odd = server.http.post("/v1/tasks", files=[("cat", ("a.png", png(letters.x[0])))], headers=server.key)
    assert "expected files named examples[LABEL], unlabeled or queries, got 'cat'" in odd.json()["detail"]


def test_more_examples_and_back(server: Server, letters: Letters) -> None:
    everything = server.create(letters.examples)["id"]
    task = server.create(letters.examples[:18])["id"]
    queries = [letters.query(i) for i in range(25)]
    before = probabilities(server.predict(task, *queries))
    added = server.http.post(
        f"/v1/tasks/{task}/examples", json={"examples": letters.examples[18:]}, headers=server.key
    ).json()
    assert (added["version"], added["examples"]) == (2, 25)
    after = probabilities(server.predict(task, *queries))
    np.testing.assert_allclose(after, probabilities(server.predict(everything, *queries)), atol=1e-5)
    assert np.abs(after - before).max() > 5e-5  # beyond what the tolerances above allow
    back = server.http.post(f"/v1/tasks/{task}/rollback", json={"version": 1}, headers=server.key).json()
    assert (back["version"], back["examples"]) == (3, 18)
    np.testing.assert_allclose(probabilities(server.predict(task, *queries)), before, atol=1e-5)
    versions = server.http.get(f"/v1/tasks/{task}/versions", headers=server.key).json()["versions"]
    assert [(v["version"], v["reason"], v["examples"], v["current"]) for v in versions] == [
        (3, "rollback", 18, True),
        (2, "add", 25, False),
        (1, "create", 18, False),
    ]
    listed = server.http.get(f"/v1/tasks/{task}/examples", headers=server.key).json()
    assert [one["label"] for one in listed["examples"]] == [one["label"] for one in letters.examples[:18]]
    assert listed["next"] is None


@pytest.mark.parametrize("part", ["examples", "versions"])
def test_what_a_task_has_comes_in_pages(server: Server, letters: Letters, part: str) -> None:
    task = server.create(letters.examples[:18])["id"]
    for _ in range(4):
        server.http.post(f"/v1/tasks/{task}/rollback", json={"version": 1}, headers=server.key)
    path = f"/v1/tasks/{task}/{part}"
    whole = server.http.get(path, headers=server.key).json()
    assert whole["next"] is None
    found: list[Any] = []
    page: dict[str, Any] = {"next": None}
    while page["next"] is not None or not found:
        params = {"limit": 4, **({} if page["next"] is None else {"after": page["next"]})}
        page = server.http.get(path, params=params, headers=server.key).json()
        assert len(page[part]) <= 4
        found += page[part]
    assert found == whole[part]
    for params, wrong in (({"limit": 0}, "limit: expected 1 to"), ({"after": 0}, "after: "), ({"limit": "x"}, "limit")):
        answer = server.http.get(path, params=params, headers=server.key)
        assert answer.status_code == 422
        assert wrong in answer.json()["detail"]


def test_what_is_forgotten_was_never_there(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    never = server.create(letters.examples[:6] + letters.examples[7:])["id"]
    gone = server.http.delete(f"/v1/tasks/{task}/examples/7", headers=server.key)
    assert gone.status_code == 200
    assert (gone.json()["version"], gone.json()["examples"]) == (2, 24)
    np.testing.assert_allclose(
        probabilities(server.predict(task, letters.query(0), letters.query(1))),
        probabilities(server.predict(never, letters.query(0), letters.query(1))),
        atol=1e-6,
    )
    # Going back brings it back no more.
    back = server.http.post(f"/v1/tasks/{task}/rollback", json={"version": 1}, headers=server.key).json()
    assert back["examples"] == 24
    again = server.http.delete(f"/v1/tasks/{task}/examples/7", headers=server.key)
    assert (again.status_code, again.json()["detail"]) == (404, f"task {task} has no example 7")


def test_a_deleted_task_is_gone_from_the_database(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    server.http.post(f"/v1/tasks/{task}/examples", json={"examples": letters.examples[:1]}, headers=server.key)
    assert server.http.delete(f"/v1/tasks/{task}", headers=server.key).status_code == 204
    for method, path in (("GET", ""), ("GET", "/versions"), ("DELETE", ""), ("POST", "/predict")):
        assert server.http.request(method, f"/v1/tasks/{task}{path}", headers=server.key).status_code == 404
    with server.database.reading() as connection:
        for table in tables.METADATA.sorted_tables:
            if table.name == "tenants":
                counts = connection.execute(sa.select(table.c.tasks, table.c.examples, table.c.bytes)).all()
                assert set(counts) == {(0, 0, 0)}
            elif table.name not in ("keys", "audit", "models"):
                assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0, table.name


def test_the_adapted_model_is_a_file_that_kshot_predict_reads(server: Server, letters: Letters, tmp_path: Path) -> None:
    task = server.create(letters.examples)["id"]
    answer = server.http.get(f"/v1/tasks/{task}/model", headers=server.key)
    (tmp_path / "task.safetensors").write_bytes(answer.content)
    (tmp_path / "query.png").write_bytes(png(letters.queries[0]))
    [row] = predict_files(load_adapted(tmp_path / "task.safetensors"), [tmp_path / "query.png"])
    [ours] = server.predict(task, letters.query(0))
    assert row["label"] == ours["label"]
    assert row["probability"] == pytest.approx(ours["probability"], abs=1e-5)


def test_adapting_and_predicting_at_once_keeps_nothing(server: Server, letters: Letters) -> None:
    body = {"examples": letters.examples, "queries": [letters.query(0)]}
    answer = server.http.post("/v1/adapt-predict", json=body, headers=server.key)
    assert answer.status_code == 200, answer.text
    task = server.create(letters.examples)["id"]
    np.testing.assert_allclose(
        probabilities(answer.json()["predictions"]), probabilities(server.predict(task, letters.query(0))), atol=1e-5
    )
    assert len(server.http.get("/v1/tasks", headers=server.key).json()["tasks"]) == 1


def test_pages_of_tasks(server: Server, letters: Letters) -> None:
    made = [server.create(letters.examples[:6], name=f"task {i}")["id"] for i in range(5)]
    found, after = [], None
    while True:
        page = server.http.get(
            "/v1/tasks", params={"limit": 2, **({"after": after} if after else {})}, headers=server.key
        ).json()
        found += [task["id"] for task in page["tasks"]]
        after = page["next"]
        if after is None:
            break
    assert found == made[::-1]
    assert server.http.get("/v1/tasks", headers=server.other).json() == {"tasks": [], "next": None}
    odd = server.http.get("/v1/tasks", params={"after": "nonsense"}, headers=server.key)
    assert (odd.status_code, odd.json()["detail"]) == (422, "after: expected what the page before gave as next")


def test_the_same_request_twice_is_done_once(server: Server, letters: Letters) -> None:
    headers = {**server.key, "Idempotency-Key": "one"}
    first, second = (
        server.http.post("/v1/tasks", json={"examples": letters.examples}, headers=headers) for _ in range(2)
    )
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert len(server.http.get("/v1/tasks", headers=server.key).json()["tasks"]) == 1
    other = server.http.post("/v1/tasks", json={"examples": letters.examples[:9]}, headers=headers)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:kshot:problem:idempotency"
    assert "'one' was sent with another request before" in other.json()["detail"]
    # Keys are a tenant's own.
    mine = server.http.post(
        "/v1/tasks", json={"examples": letters.examples}, headers={**server.other, "Idempotency-Key": "one"}
    )
    assert mine.status_code == 201
    assert mine.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("what", ["add", "forget", "rollback", "feedback"])
def test_each_write_that_is_sent_twice_is_done_once(server: Server, letters: Letters, what: str) -> None:
    task = server.create(letters.examples)["id"]
    method, path, body = {
        "add": ("POST", "examples", {"examples": letters.examples[:1]}),
        "forget": ("DELETE", "examples/1", None),
        "rollback": ("POST", "rollback", {"version": 1}),
        "feedback": ("POST", "feedback", {"label": "c0", "predicted": "c1"}),
    }[what]
    headers = {**server.key, "Idempotency-Key": "twice"}
    first, second = (
        server.http.request(method, f"/v1/tasks/{task}/{path}", json=body, headers=headers) for _ in range(2)
    )
    assert first.status_code == second.status_code < 300
    assert second.headers["idempotent-replayed"] == "true"
    now = server.http.get(f"/v1/tasks/{task}", headers=server.key).json()
    assert now["version"] == (1 if what == "feedback" else 2)
    health = server.http.get(f"/v1/tasks/{task}/health", headers=server.key).json()["feedback"]
    assert health is None or health["answers"] == 1
    if what != "forget":  # whose kept answer has no labels left, nor findings
        assert second.json() == first.json()


def test_who_changes_a_task_at_the_same_time_loses_nothing(server: Server, letters: Letters) -> None:
    """Each change is made of what the one before left, however they come."""
    task = server.create(letters.examples[:10])["id"]
    more = letters.examples[10:18]

    def add(example: dict[str, Any]) -> httpx.Response:
        while True:
            body = {"examples": [example]}
            answer = server.http.post(f"/v1/tasks/{task}/examples", json=body, headers=server.key)
            if answer.status_code != 409:
                return answer
            assert "is changed by too many at the same time: try again" in answer.json()["detail"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(add, more))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sorted(answer.json()["version"] for answer in answers) == list(range(2, 10))
    listed = server.http.get(f"/v1/tasks/{task}/examples", headers=server.key).json()["examples"]
    assert sorted(one["label"] for one in listed) == sorted(one["label"] for one in letters.examples[:18])
    assert [one["number"] for one in listed] == list(range(1, 19))


def test_the_same_request_at_the_same_time_is_done_once(server: Server, letters: Letters) -> None:
    headers = {**server.key, "Idempotency-Key": "at once"}

    def create(_: int) -> httpx.Response:
        return server.http.post("/v1/tasks", json={"examples": letters.examples}, headers=headers)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(create, range(6)))
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(server.http.get("/v1/tasks", headers=server.key).json()["tasks"]) == 1


def test_a_deletion_that_is_sent_twice_is_one(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    headers = {**server.key, "Idempotency-Key": "gone"}
    for replayed in (None, "true"):
        answer = server.http.delete(f"/v1/tasks/{task}", headers=headers)
        assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (204, replayed)
    assert server.http.delete(f"/v1/tasks/{task}", headers=server.key).status_code == 404
    once = {**server.key, "Idempotency-Key": "made once"}
    body = {"examples": letters.examples}
    made = server.http.post("/v1/tasks", json=body, headers=once).json()["id"]
    assert server.http.delete(f"/v1/tasks/{made}", headers=server.key).status_code == 204
    again = server.http.post("/v1/tasks", json=body, headers=once)
    assert again.json() == {"id": made}, "and gone since: sent again it makes no other"
    other = server.http.delete(f"/v1/tasks/{server.create(letters.examples)['id']}", headers=headers)
    assert other.json()["type"] == "urn:kshot:problem:idempotency"


def test_a_label_goes_with_its_last_example(server: Server, letters: Letters) -> None:
    alone = {**letters.examples[0], "label": "only once"}
    key = {**server.key, "Idempotency-Key": "with it"}
    made = server.http.post("/v1/tasks", json={"examples": [*letters.examples, alone]}, headers=key).json()
    assert server.http.delete(f"/v1/tasks/{made['id']}/examples/26", headers=server.key).status_code == 200
    with server.database.reading() as connection:
        for table in (tables.versions, tables.answers, tables.states, tables.examples, tables.tasks):
            assert "only once" not in str(connection.execute(sa.select(table)).all())
    again = server.http.post("/v1/tasks", json={"examples": [*letters.examples, alone]}, headers=key)
    assert (again.status_code, again.json()) == (201, {"id": made["id"]}), "that it was done is known"


def test_another_tenants_task_is_none(server: Server, letters: Letters) -> None:
    task = server.create(letters.examples)["id"]
    unknown = f"task_{'0' * 24}"

    def ask(method: str, path: str, name: str) -> tuple[int, str]:
        body = {"version": 1, "examples": letters.examples[:1], **letters.query(0)} if method == "POST" else None
        answer = server.http.request(method, f"/v1/tasks/{name}{path}", headers=server.other, json=body)
        document = answer.json()
        document.pop("request")
        return answer.status_code, str(document).replace(name, "NAME")

    for method, path in (
        ("GET", ""), ("DELETE", ""), ("POST", "/examples"), ("GET", "/examples"), ("DELETE", "/examples/1"),
        ("GET", "/versions"), ("POST", "/rollback"), ("GET", "/model"), ("POST", "/predict"),
    ):  # fmt: skip
        assert ask(method, path, task) == ask(method, path, unknown)
        assert ask(method, path, task)[0] == 404
    assert server.predict(task, letters.query(0))


def test_keys(server: Server, letters: Letters) -> None:
    def ask(headers: dict[str, str]) -> httpx.Response:
        return server.http.get("/v1/tasks", headers=headers)

    for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer nonsense"}):
        refused = ask(headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:kshot:problem:unauthenticated"
    id_, secret = server.database.write(lambda c: access.create_key(c, "acme", scopes=["predict"])).result()
    reader = {"Authorization": f"Bearer {secret}"}
    assert ask(reader).status_code == 200
    forbidden = server.http.post("/v1/tasks", json={"examples": letters.examples}, headers=reader)
    assert (forbidden.status_code, forbidden.json()["detail"]) == (
        403,
        "expected a key with the scope write, got one with predict",
    )
    assert server.database.write(lambda c: access.revoke_key(c, id_)).result()
    assert ask(reader).status_code == 401, "the very next request"
    with server.database.reading() as connection:
        stored = connection.execute(sa.select(tables.keys)).all()
    assert secret not in str(stored)
