"""The Python client, against a server in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from serving_toys import Letters, Server

from kshot.client import AsyncClient, Client, ServerError, example

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture
def client(server: Server) -> Any:
    with Client(f"http://127.0.0.1:{server.port}", server.secret) as made:
        yield made


def test_a_task_from_beginning_to_end(client: Client, letters: Letters, tmp_path: Path) -> None:
    labels = [f"c{label}" for label in letters.y]
    made = client.create_task(letters.x[:20], labels[:20], name="mine")
    task = made["id"]
    assert client.task(task)["name"] == "mine"
    more = client.add_examples(task, letters.x[20:], labels[20:], unlabeled=letters.queries[:3])
    assert more["examples"] == 25
    assert sorted(more["label_next"]) == [0, 1, 2]
    rows = client.predict(task, letters.queries[:3], nearest=1, top=2)
    assert [len(row["probabilities"]) for row in rows] == [2, 2, 2]
    Image.fromarray(letters.queries[0].numpy()).save(tmp_path / "query.png")
    forms = [tmp_path / "query.png", str(tmp_path / "query.png"), (tmp_path / "query.png").read_bytes()]
    forms += [Image.fromarray(letters.queries[0].numpy()), letters.queries[0].numpy(), letters.queries[0].tolist()]
    forms += [letters.queries[0].float().div(255).unsqueeze(0)]
    for form in forms:
        [row] = client.predict(task, [form])
        assert row["label"] == rows[0]["label"]
        assert row["probability"] == pytest.approx(rows[0]["probability"], abs=1e-5)
    assert client.feedback(task, "c0", predicted="c1")["right"] is False
    assert client.feedback(task, rows[0]["label"], query=letters.queries[0])["right"] is True
    assert client.health(task)["feedback"]["answers"] == 2
    assert client.forget_example(task, 1)["examples"] == 24
    assert client.rollback(task, 1)["examples"] == 19
    assert [one["version"] for one in client.versions(task)] == [4, 3, 2, 1]
    assert len(client.examples(task)) == 19
    assert client.download(task)[8:9] == b"{"
    assert [model["name"] for model in client.models()] == ["characters"]
    assert client.tenant()["has"]["tasks"] == 1
    rows = client.adapt_predict(letters.x, labels, letters.queries[:2], nearest=1, top=3)
    assert [(len(row["probabilities"]), len(row["nearest"])) for row in rows] == [(3, 1)] * 2
    for i in range(3):
        client.create_task(letters.x, labels, name=str(i))
    assert [one["name"] for one in client.tasks()] == ["2", "1", "0", "mine"]
    assert [one["name"] for one in client.tasks(limit=2)] == ["2", "1"]
    assert client.delete(task) is None
    with pytest.raises(ServerError, match=rf"there is no task {task}: .*\(404\)") as refused:
        client.task(task)
    assert (refused.value.status, refused.value.name) == (404, "not-found")


def test_what_is_a_tenants_own(server: Server, letters: Letters) -> None:
    with Client(f"http://127.0.0.1:{server.port}", server.secret) as client:
        task = client.create_task(letters.x, [f"c{label}" for label in letters.y])["id"]
        client.feedback(task, "c0", predicted="c1")
        lines = [json.loads(line) for line in client.export().splitlines()]
        assert [line["kind"] for line in lines] == ["tenant", "task", *["example"] * 25, "feedback"]
        assert (lines[-1]["label"], lines[-1]["right"]) == ("c0", False)
        page = client.audit(limit=1)
        assert [one["action"] for one in page["audit"]] == ["tenant.export"]
        assert client.audit(limit=1, before=page["next"])["audit"][0]["action"] == "feedback"
        assert client.erase() is None
        with pytest.raises(ServerError, match="expected a valid key"):
            client.tenant()
    with pytest.raises(ServerError, match="expected a server's address such as http://127.0.0.1:8000, got 'here'"):
        Client("here")


def test_the_same_from_asyncio(server: Server, letters: Letters) -> None:
    async def ask() -> None:
        async with AsyncClient(f"http://127.0.0.1:{server.port}", server.secret) as client:
            labels = [f"c{label}" for label in letters.y]
            made = await asyncio.gather(*[client.create_task(letters.x, labels, name=str(i)) for i in range(8)])
            rows = await asyncio.gather(*[client.predict(one["id"], [letters.queries[0]]) for one in made])
            assert len({row[0]["label"] for row in rows}) == 1
            assert len([task async for task in client.tasks()]) == 8

    asyncio.run(ask())


def test_what_cannot_be_asked(client: Client, letters: Letters, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="expected a label for each of the 25 examples, got 2"):
        client.create_task(letters.x, ["a", "b"])
    with pytest.raises(ServerError, match="none.png cannot be read: No such file"):
        client.predict("task", [tmp_path / "none.png"])
    with pytest.raises(ServerError, match="expected pixels from 0 to 255, or floats, got 0 to 300"):
        example([[0, 300]])
    assert example(torch.zeros(1, 2))["dtype"] == "float32"
    nobody = Client("http://127.0.0.1:9", "ks_x", tries=1)
    with nobody, pytest.raises(ServerError, match="no answer from http://127.0.0.1:9: .* Is the server running there?"):
        nobody.models()


def test_what_is_busy_is_asked_again(client: Client) -> None:
    """A server that refuses twice, and sees the same request each time."""
    seen: list[tuple[str | None, int]] = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status = 503 if len(seen) < 2 else 200
            seen.append((self.headers["idempotency-key"], status))
            body = b'{"type": "urn:kshot:problem:busy", "detail": "busy"}' if status == 503 else b'{"id": "t"}'
            self.send_response(status)
            self.send_header("retry-after", "0")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Client(f"http://127.0.0.1:{server.server_port}", "ks_x") as asking:
                assert asking.create_task([[[0]]], ["a"]) == {"id": "t"}
        finally:
            server.shutdown()
            thread.join()
    assert [status for _, status in seen] == [503, 503, 200]
    assert len({key for key, _ in seen}) == 1
    assert seen[0][0]
