"""Servers in processes of their own, what asks them, and what a figure is."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from letters import Letters
from load import Spec

from kshot.serving.store import access
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate

HERE = Path(__file__).parent
MODEL = "characters"  # ProtoNet on a Conv-4 of 64 channels, 28x28
CLIENTS = 64
ROUNDS = 3

EMPTY = """
import orjson, uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
app = FastAPI()
async def empty(http: Request) -> Response:
    orjson.loads(await http.body())
    return Response(b'{"predictions": []}', media_type="application/json")
app.post("/v1/tasks/{task}/predict")(empty)
app.post("/v1/tasks")(empty)
app.get("/healthz")(lambda: {})
uvicorn.run(app, port=0, http="httptools", access_log=False)
"""


class Server:
    """A process that serves.

    Attributes:
        port: where.
        started: seconds from its start until it answered.
    """

    def __init__(self, command: list[str], folder: Path, ready: str) -> None:
        self.log = folder / f"server-{time.time_ns()}.log"
        began = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        self.port = self._port()
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as http:
            while http.get(ready).status_code != 200:
                time.sleep(0.01)
        self.started = time.perf_counter() - began

    def _port(self) -> int:
        while True:
            found = re.search(rb"http://127\.0\.0\.1:(\d+)", self.log.read_bytes())
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text())
            time.sleep(0.005)

    @property
    def megabytes(self) -> float:
        """Of resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@contextlib.contextmanager
def empty_server(folder: Path) -> Iterator[Server]:
    server = Server([sys.executable, "-c", EMPTY], folder, "/healthz")
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def kshot_server(folder: Path, models: list[str], **settings: Any) -> Iterator[Server]:
    path = folder / "server.json"  # YAML reads JSON
    rate = {"requests_per_second": 1_000_000}  # the server is asked what it can, not what a tenant may
    place = {"database": f"sqlite:///{folder}/kshot.db", "master_key": f"{folder}/kshot.key"}
    whole = {"models": models, **place, "port": 0, "quotas": rate, **settings}
    path.write_text(json.dumps(whole))
    server = Server([sys.executable, "-m", "kshot", "serve", "--settings", str(path)], folder, "/readyz")
    try:
        yield server
    finally:
        server.close()


def keys(folder: Path, count: int) -> list[str]:
    """A key each of so many tenants."""
    database = Database(f"sqlite:///{folder}/kshot.db")
    migrate(database)
    pending = [database.write(lambda c, i=i: access.create_key(c, f"tenant {i}")[1]) for i in range(count)]  # type: ignore[misc]
    secrets = [one.result() for one in pending]
    database.close()
    return secrets


class Load:
    """A process that asks.

    Args:
        spec: for what.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        path = spec.save(folder / f"spec-{time.time_ns()}.json")
        self._process = subprocess.Popen([sys.executable, str(HERE / "load.py"), str(path)], stdout=-1)

    def result(self) -> dict[str, Any]:
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise SystemExit("the load ended with an error")
        found: dict[str, Any] = json.loads(out)
        return found


def ask(folder: Path, server: Server, requests: list[str], connections: int, seconds: float, **more: Any) -> Any:
    """What a load finds."""
    return Load(folder, Spec(server.port, requests, connections, seconds, **more)).result()


def create_all(server: Server, letters: Letters, secrets: list[str]) -> list[str]:
    """A task of each tenant."""
    ids = []
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=60) as http:
        for t, secret in enumerate(secrets):
            headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
            answer = http.post("/v1/tasks", content=letters.creation(t), headers=headers)
            assert answer.status_code == 201, answer.text
            ids.append(answer.json()["id"])
    return ids


def seconds_of(work: Callable[[], Any], at_least: float = 2.0) -> float:
    """The median of what one call takes."""
    work()
    taken: list[float] = []
    while sum(taken) < at_least or len(taken) < 5:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def figure(name: str, value: float, target: float, at_least: bool = False) -> dict[str, Any]:
    """A number beside what it shall reach."""
    reached = value >= target if at_least else value <= target
    return {"figure": name, "value": round(value, 4), "target": target, "at_least": at_least, "reached": reached}
