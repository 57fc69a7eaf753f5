"""`kshot serve` and `kshot keys`: a server as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from cli_helpers import Kshot

import kshot as library
from kshot.serving.store.database import Database


@contextmanager
def serving(*words: str, kill: bool = False) -> Iterator[tuple[httpx.Client, str | None, list[str]]]:
    """A running server: what asks it, the key that it printed, and its lines, all of them when it has ended."""
    lines: list[str] = []
    process = subprocess.Popen(
        [sys.executable, "-m", "kshot", "serve", "--port", "0", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        errors: IO[str] = process.stderr  # type: ignore[assignment]
        url = None
        while url is None:
            line = errors.readline()
            assert line, "".join(lines)
            lines.append(line)
            found = re.search(r"http://[\d.]+:\d+", line)
            url = found and found[0]
        key = next((m[0] for line in lines if (m := re.search(r"ks_[\w-]+", line))), None)
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield http, key, lines
    finally:
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        lines += errors.readlines()
        errors.close()
        process.wait(60)
    assert process.returncode == (-signal.SIGKILL if kill else 0), "".join(lines)


def task() -> dict[str, Any]:
    episode = library.tasks.load("glyphs", way=3, shot=2, query=1).test.sample(1, seed=0)[0]
    x = (episode.support.x[:, 0] * 255).round().int().tolist()
    return {"examples": [{"x": one, "label": f"c{y}"} for one, y in zip(x, episode.support.y.tolist(), strict=True)]}


@pytest.mark.skipif(os.name == "nt", reason="signals")
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
