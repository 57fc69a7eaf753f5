"""A server in a thread, and a task for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

import kshot
from kshot.serving.app import create_app
from kshot.serving.protocol import protocol
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.settings import load_settings
from kshot.serving.store import access
from kshot.serving.store.database import Database
from kshot.serving.vault import Vault


class Server:
    """A server in a thread of this process, and two tenants' keys.

    Attributes:
        http: asks it.
        key, other: headers of the tenants acme, which may do everything, and other.
    """

    def __init__(self, database: Database, models: dict[str, ServedModel], folder: Path, **settings: Any) -> None:
        self.database = database
        self.service = Service(load_settings(None, settings, {}), models, database, Vault.of_file(folder / "kshot.key"))
        self.secret = database.write(lambda c: access.create_key(c, "acme", scopes=access.SCOPES)[1]).result()
        self.key = {"Authorization": f"Bearer {self.secret}"}
        secret = database.write(lambda c: access.create_key(c, "other")[1]).result()
        self.other = {"Authorization": f"Bearer {secret}"}

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Listens on a free loopback port for the length of the block."""
        limits = self.service.settings.limits
        config = uvicorn.Config(create_app(self.service), port=0, log_config=None, http=protocol(limits))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started and thread.is_alive() and time.monotonic() < deadline:
                threading.Event().wait(0.005)
            self.port = server.servers[0].sockets[0].getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False) as self.http:
                yield self
        finally:
            server.should_exit = True
            thread.join()

    def create(self, examples: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A new task of acme's."""
        answer = self.http.post("/v1/tasks", json={"examples": examples, **more}, headers=self.key)
        assert answer.status_code == 201, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def predict(self, task: str, *queries: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        """What a task of acme's says."""
        body = {"queries": list(queries), **more}
        answer = self.http.post(f"/v1/tasks/{task}/predict", json=body, headers=self.key)
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"]  # type: ignore[no-any-return]


class Letters:
    """A task of letters as JSON: five classes, five examples each, and queries."""

    def __init__(self, seed: int = 1, shot: int = 5) -> None:
        source = kshot.tasks.load("glyphs", way=5, shot=shot, query=5)
        episode = source.test.sample(1, seed=seed)[0]
        self.x = (episode.support.x[:, 0] * 255).round().to(torch.uint8)
        self.y = episode.support.y.tolist()
        self.queries = (episode.query.x[:, 0] * 255).round().to(torch.uint8)
        self.targets = [f"c{label}" for label in episode.query.y.tolist()]

    @property
    def examples(self) -> list[dict[str, Any]]:
        return [{"x": x.tolist(), "label": f"c{label}"} for x, label in zip(self.x, self.y, strict=True)]

    def query(self, i: int) -> dict[str, Any]:
        return {"x": self.queries[i].tolist()}
