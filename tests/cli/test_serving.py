"""`kshot serve` and `kshot keys`: a server as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_helpers import Kshot
from running_server import serving

import kshot as library
from kshot.serving.store.database import Database


def pid_of(lines: list[str]) -> int:
    """Of the process whose lines say that it serves."""
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    return next(int(line["pid"]) for line in logged if line["message"] == "serving")


def task() -> dict[str, Any]:
    episode = library.tasks.load("glyphs", way=3, shot=2, query=1).test.sample(1, seed=0)[0]
    x = (episode.support.x[:, 0] * 255).round().int().tolist()
    return {"examples": [{"x": one, "label": f"c{y}"} for one, y in zip(x, episode.support.y.tolist(), strict=True)]}


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without signals")
def test_a_server_from_one_command() -> None:
    with serving("characters", kill=True) as (http, key, _):
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json() == {"status": "ready", "problems": []}
        headers = {"Authorization": f"Bearer {key}"}
        [model] = http.get("/v1/models", headers=headers).json()["models"]
        assert model["name"] == "characters"
        assert model["calibrated"]
        made = http.post("/v1/tasks", json=task(), headers=headers).json()
    # Killed: what it had said is there.
    with serving("characters") as (http, other, lines):
        assert other is None, "a first key is made once"
        assert not any("calibrating" in line for line in lines), "so is the calibration"
        answer = http.post(f"/v1/tasks/{made['id']}/predict", json=task()["examples"][0], headers=headers)
        assert answer.status_code == 422, "a label is no part of a query"
        query = {"x": task()["examples"][0]["x"]}
        answer = http.post(f"/v1/tasks/{made['id']}/predict", json=query, headers={**headers, "X-Request-ID": "mine"})
        assert answer.json()["predictions"][0]["label"] == task()["examples"][0]["label"]
        text = http.get("/metrics").text
        assert 'kshot_batch_jobs_count{lane="predict"} 1.0' in text
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    [mine] = [line for line in logged if line.get("request") == "mine"]
    assert (mine["method"], mine["status"]) == ("POST", 200)
    assert not any(str(key) in line for line in lines)


def test_keys(kshot: Kshot) -> None:
    made = json.loads(kshot("keys", "create", "acme", "--name", "robot", "--scope", "predict", "--json").stdout)
    assert made["key"].startswith("ks_")
    assert kshot("keys", "create", "other").stdout.count("ks_") == 1
    [listed] = json.loads(kshot("keys", "list", "--tenant", "acme", "--json").stdout)
    assert (listed["id"], listed["name"], listed["scopes"], listed["revoked"]) == (
        made["id"],
        "robot",
        ["predict"],
        None,
    )
    table = kshot("keys", "list").stdout
    assert made["key"] not in table
    assert len(table.splitlines()) == 3
    assert "is revoked" in kshot("keys", "revoke", made["id"]).stdout
    refused = kshot("keys", "revoke", made["id"], code=2).stderr
    assert f"there is no key {made['id']} that is not revoked: kshot keys list says which there are" in refused
    odd = kshot("keys", "create", "a", "--scope", "all", code=2).stderr
    assert "expected scopes of predict, write, admin, got 'all'" in odd
    database = Database("sqlite:///kshot.db")
    with database.reading() as connection:
        actions = [row[0] for row in connection.exec_driver_sql("SELECT action FROM audit ORDER BY id")]
    database.close()
    assert actions == ["key.create", "key.create", "key.revoke"]


def test_quotas_of_a_tenant(kshot: Kshot) -> None:
    kshot("keys", "create", "acme")
    assert "none of its own" in kshot("keys", "quota", "acme").stdout
    said = kshot("keys", "quota", "acme", "--tasks", 1, "--requests-per-second", 50)
    assert "Quotas of acme: tasks 1, requests_per_second 50.0; else those of the server's settings" in said.stdout
    more = json.loads(kshot("keys", "quota", "acme", "--examples", 25, "--json").stdout)
    assert more["quotas"] == {"tasks": 1, "requests_per_second": 50.0, "examples": 25}
    assert "there is no tenant 'nobody'" in kshot("keys", "quota", "nobody", code=2).stderr
    for words in (("list",), ("revoke", "key_0"), ("quota", "acme")):
        refused = kshot("keys", *words, "--database", "sqlite:///elsewhere.db", code=2).stderr
        assert "there is no database elsewhere.db: run this where the server does" in refused
    assert not Path("elsewhere.db").exists()
    assert "expected the name of a tenant, got ''" in kshot("keys", "create", "", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to serve: name a run, kshot serve runs/mine, or a shipped learner, characters"),
        (("characters", "--no-auth", "--host", "0.0.0.0"), "listens on a loopback address alone, not on 0.0.0.0"),
        (("characters", "--retention", "all"), "the setting retention: input should be 'adaptation', 'raw' or 'none'"),
        (("characters", "--database", "mysql://a/b"), "expected a database of SQLite or PostgreSQL"),
        (("characters", "characters"), "two models are called characters: say NAME=characters for one of them"),
    ],
)
def test_what_cannot_be_served(kshot: Kshot, arguments: tuple[str, ...], message: str) -> None:
    assert message in kshot("serve", *arguments, code=2).stderr
    assert not list(Path.cwd().iterdir()), "nothing is made of what is refused"


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without signals")
def test_several_workers() -> None:
    with serving("characters", "--no-auth", "--workers", "2") as (http, _, lines):
        made = http.post("/v1/tasks", json=task()).json()
        query = {"x": task()["examples"][0]["x"]}
        url = f"/v1/tasks/{made['id']}/predict"
        wanted = task()["examples"][0]["label"]
        first = pid_of(lines)
        seen: set[str] = set()
        deadline = time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < deadline:
            # A connection of its own: whichever worker takes it.
            with httpx.Client(base_url=http.base_url, timeout=60, trust_env=False) as other:
                answer = other.post(url, json=query)
                assert answer.json()["predictions"][0]["label"] == wanted
                seen.add(answer.headers["x-request-id"][:10])
        assert len(seen) == 2
        # One is killed: the other goes on, and it is started again.
        os.kill(first, signal.SIGKILL)
        for _ in range(20):
            with httpx.Client(base_url=http.base_url, timeout=60, trust_env=False) as other:
                assert other.post(url, json=query).json()["predictions"][0]["label"] == wanted
        text = http.get("/metrics").text
        counted = re.search(r'kshot_batch_jobs_count\{lane="predict"\} (\d+)', text)
        assert counted, text
    assert any("a worker ended" in line for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without signals")
def test_a_port_that_is_taken(kshot: Kshot) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = kshot("serve", "characters", "--no-auth", "--port", port, code=1)
        assert f"127.0.0.1:{port} cannot be listened on" in found.stderr
        assert "--port 0 takes a free one" in found.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without signals")
def test_what_was_begun_is_finished_when_the_server_ends() -> None:
    with serving("characters", "--no-auth") as (http, _, lines):
        body = json.dumps(task()).encode()
        head = f"POST /v1/tasks HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        pid = pid_of(lines)
        with socket.create_connection((http.base_url.host, http.base_url.port), timeout=60) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body[:100])
            http.get("/healthz")  # by now it was read
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:  # until nobody is let in any more
                try:
                    httpx.get(f"{http.base_url}/healthz", trust_env=False)
                except httpx.HTTPError:
                    break
            connection.sendall(body[100:])
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 201"), answer
    with serving("characters", "--no-auth") as (http, _, _):
        assert len(http.get("/v1/tasks").json()["tasks"]) == 1


def test_the_master_key_is_replaced(kshot: Kshot) -> None:
    with serving("characters", "--no-auth") as (http, _, _):
        made = http.post("/v1/tasks", json=task()).json()
    before = Path("kshot.key").read_text()
    found = kshot("keys", "rotate")
    assert "7 rows are sealed with the new key" in found.stdout  # six examples and a state
    assert before.strip() not in Path("kshot.key").read_text()
    query = {"x": task()["examples"][0]["x"]}
    with serving("characters", "--no-auth") as (http, _, _):
        answer = http.post(f"/v1/tasks/{made['id']}/predict", json=query).json()
        assert answer["predictions"][0]["label"] == task()["examples"][0]["label"]
        running = kshot("keys", "rotate", code=1).stderr
        assert "a server runs with the master key in kshot.key: stop it first, or rotate in two steps" in running
        # In two steps, while servers run: the first one is with the old key until it is started again.
        kshot("keys", "rotate", "--begin")
        assert len(Path("kshot.key").read_text().split()) == 2
        assert http.post(f"/v1/tasks/{made['id']}/predict", json=query).status_code == 200
    with serving("characters", "--no-auth") as (http, _, _):
        second = http.post("/v1/tasks", json=task()).json()
        assert "7 rows" in kshot("keys", "rotate", "--finish").stdout
        assert len(Path("kshot.key").read_text().split()) == 1
        for id_ in (made["id"], second["id"]):
            assert http.post(f"/v1/tasks/{id_}/predict", json=query).status_code == 200
            assert http.delete(f"/v1/tasks/{id_}/examples/1").status_code == 200
    assert "--begin first" in kshot("keys", "rotate", "--finish", code=2).stderr
    assert "got both" in kshot("keys", "rotate", "--finish", "--begin", code=2).stderr
