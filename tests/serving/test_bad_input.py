"""Each mistake and each attack has its own documented answer."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import socket
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from serving_toys import Letters, Server

from kshot.artifacts import load_learner
from kshot.errors import ArtifactError
from kshot.learners.adapted import AdaptedModel
from kshot.serving.problems import PROBLEMS
from kshot.serving.served import ServedModel
from kshot.serving.store import tables
from kshot.serving.store.access import set_quotas


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 1000)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


LABELLED = {"x": [[0.0] * 28] * 28, "label": "a"}
BLACK = {"x": [[0] * 28] * 28}


def cases() -> list[Any]:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, format="PNG")
    bad: list[tuple[str, Any, int, str, str]] = [
        ("nothing", {}, 422, "invalid", "examples[0]: expected one of x, image and bytes, got none"),
        ("two forms", {**BLACK, "image": ""}, 422, "invalid", "expected one of x, image and bytes, got x and image"),
        (
            "ragged",
            {"x": [[1, 2], [3]]},
            422,
            "input",
            "x: expected an array of numbers, every row as long",
        ),
        ("text", {"x": [["a"]]}, 422, "input", "examples[0].x: expected an array of numbers"),
        ("no pixels", {"x": [[256] * 28] * 28}, 422, "input", "expected pixels from 0 to 255, got 256 to 256"),
        ("fractions", {"x": [[0.5] * 28] * 28}, 422, "input", "expected whole numbers from 0 to 255, a pixel each"),
        (
            "dimensions",
            {"x": [[[[1]]]]},
            422,
            "input",
            "expected an image [height, width] or [height, width, ",
        ),
        (
            "floats of another shape",
            {"x": [[0.5] * 5] * 5, "dtype": "float32"},
            422,
            "input",
            "examples[0]: expected an example of shape [1, 28, 28], as the model was trained on, got [5, 5]",
        ),
        ("no dtype", {**BLACK, "dtype": "int7"}, 422, "invalid", "dtype: input should be 'uint8' or 'float32'"),
        (
            "too large a number",
            {"x": [[1e300] * 28] * 28, "dtype": "float32"},
            422,
            "input",
            "numbers that float32",
        ),
        (
            "NaN",
            {"bytes": b64(struct.pack("<784f", *[math.nan] * 784)), "shape": [28, 28], "dtype": "float32"},
            422,
            "input",
            "examples[0]: expected finite numbers that float32 holds, got NaN or infinity",
        ),
        ("no base64", {"image": "%%%"}, 422, "input", "examples[0].image: expected base64, got something else"),
        ("no image", {"image": b64(b"hello")}, 422, "input", "is not an image in any format that Pillow reads"),
        (
            "truncated",
            {"image": b64(whole.getvalue()[:-900])},
            422,
            "input",
            "examples[0] is damaged: expected a whole",
        ),
        (
            "half a header",
            {"image": b64(whole.getvalue()[:20])},
            422,
            "input",
            "its header cannot be read (Truncat",
        ),
        (
            "a format that has programs in it",
            {"image": b64(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")},
            422,
            "input",
            "is not an image in any format that Pillow reads: send one of PNG, JPEG, WEBP, GIF, BMP, TIFF",
        ),
        ("no columns", {"x": [[]] * 28}, 422, "input", "expected an image [height, width] or"),
        ("no rows", {"x": []}, 422, "input", "expected an image [height, width] or"),
        ("100 megapixels", {"image": b64(bomb(10_000, 10_000))}, 422, "input", "too many pixels"),
        (
            "30 megapixels",
            {"image": b64(bomb(6_000, 5_000))},
            422,
            "input",
            "25,000,000 pixels, got 6000 x 5000",
        ),
        (
            "bytes",
            {"bytes": b64(b"12"), "shape": [28, 28]},
            422,
            "input",
            "784 bytes of uint8 for [28, 28], got 2",
        ),
        ("shape", {"bytes": b64(b"12"), "shape": [-1]}, 422, "input", "expected the lengths of the array's dimensions"),
        ("unknown member", {**BLACK, "colour": 1}, 422, "invalid", "colour: extra inputs are not permitted"),
    ]
    return [pytest.param(*rest, id=name) for name, *rest in bad]


@pytest.mark.parametrize(("example", "status", "name", "detail"), cases())
def test_an_example_that_is_none(
    server: Server, letters: Letters, example: dict[str, Any], status: int, name: str, detail: str
) -> None:
    body = {"examples": [{**example, "label": "a"}, *letters.examples]}
    answer = server.http.post("/v1/tasks", json=body, headers=server.key)
    document = answer.json()
    assert (answer.status_code, document["status"]) == (status, status)
    assert document["type"] == f"urn:kshot:problem:{name}"
    assert detail in document["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["request"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "status", "name", "detail"),
    [
        ({"examples": []}, 422, "invalid", "expected examples, got none"),
        ({}, 422, "invalid", "examples: field required"),
        (
            {"examples": [{**BLACK, "label": "a"}] * 3},
            422,
            "support",
            "at least two classes, got 1 ('a'): add",
        ),
        ({"examples": [{**BLACK, "label": 3}]}, 422, "invalid", "examples[0].label: input should be a valid string"),
        ({"examples": [{**BLACK, "label": ""}]}, 422, "invalid", "examples[0].label: string should have at least 1"),
        (
            {"examples": [{**BLACK, "label": "x" * 1_000_000}]},
            422,
            "invalid",
            "at most 200 bytes, got 1,000,000",
        ),
        ({"examples": [{**BLACK, "label": "a\u0000b"}]}, 422, "invalid", "expected text without control characters"),
        (
            {"examples": [{"x": [[0]], "label": f"{i}"} for i in range(500)]},
            422,
            "support",
            "expected at most 200 classes, which is what a task may have here, got 500",
        ),
        (
            {"examples": [{"x": [[0]], "label": f"{i}"} for i in range(10_000)]},
            422,
            "support",
            "expected at most 200 classes, which is what a task may have here, got 10000",
        ),
        ({"examples": [{**BLACK, "label": "a"}], "model": "charcters"}, 404, "not-found", "Did you mean 'characters'?"),
        (
            {"examples": [{**BLACK, "label": "a"}], "options": {"steps": 3}},
            422,
            "invalid",
            "options.steps: the model characters takes no options: leave it out",
        ),
        (
            {"examples": [{**BLACK, "label": "a"}], "exmaples": 1},
            422,
            "invalid",
            "exmaples: extra inputs are not perm",
        ),
    ],
)
def test_a_task_that_is_none(server: Server, body: Any, status: int, name: str, detail: str) -> None:
    answer = server.http.post("/v1/tasks", json=body, headers=server.key)
    assert answer.json()["type"] == f"urn:kshot:problem:{name}"
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "name"),
    [
        (b"{", "application/json", 400, "unreadable"),
        (b"[1]", "application/json", 422, "invalid"),
        (b"\xff\xfe", "application/json", 400, "unreadable"),
        (b'{"examples": [{"x": [[NaN]], "label": "a"}]}', "application/json", 400, "unreadable"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "media-type"),
        (b"hello", "multipart/form-data", 400, "unreadable"),
        (b"hello", "multipart/form-data; boundary=x", 400, "unreadable"),
        (
            b'--x\r\nContent-Disposition: form-data; name="examples[a]"; filename="a"\r\n\r\ncut off',
            "multipart/form-data; boundary=x",
            400,
            "unreadable",
        ),
        (b"[" * 100_000, "application/json", 400, "unreadable"),
    ],
)
def test_a_body_that_is_none(server: Server, content: bytes, kind: str, status: int, name: str) -> None:
    answer = server.http.post("/v1/tasks", content=content, headers={**server.key, "content-type": kind})
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:kshot:problem:{name}")


def test_images_of_a_request_have_so_many_pixels_together(
    database: Any, model: Any, tmp_path: Any, letters: Letters
) -> None:
    limits = {"total_pixels": 10_000}
    with Server(database, {"characters": model}, tmp_path, limits=limits).running() as server:
        file = io.BytesIO()
        Image.effect_noise((64, 64), 50).save(file, format="PNG")
        examples = [{"image": b64(file.getvalue()), "label": label} for label in ("a", "b", "a")]
        refused = server.http.post("/v1/tasks", json={"examples": examples}, headers=server.key)
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith("examples[2]: expected images of at most 10,000 pixels together")
        assert server.create(examples[:2])["examples"] == 2


def test_what_is_not_there(server: Server) -> None:
    answer = server.http.get("/v2/tasks", headers=server.key)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:kshot:problem:not-found")
    answer = server.http.put("/v1/tasks", headers=server.key)
    assert (answer.status_code, answer.json()["type"]) == (405, "urn:kshot:problem:method")
    for name in (
        "../../etc/passwd",
        "%2e%2e%2fkshot.db",
        "x' OR '1'='1",
        "task_; DROP TABLE tasks",
        "x" * 5000,
        "\u00e9",
    ):
        answer = server.http.get(f"/v1/tasks/{name}", headers=server.key)
        assert answer.status_code == 404
    injected = server.http.get("/v1/tasks", headers={"Authorization": "Bearer ' OR 1=1 --"})
    assert injected.status_code == 401


def test_nobody_fills_the_counters_with_names(server: Server) -> None:
    for i in range(20):
        server.http.get(f"/v1/tasks/anything-{i}")
        server.http.delete(f"/v1/tasks/anything-{i}/examples/x{i}", headers=server.key)
    text = server.http.get("/metrics").text
    assert "anything" not in text
    assert 'route="/v1/tasks/{task}",status="401"' in text


def test_names_are_only_names(server: Server, letters: Letters) -> None:
    """What would be a path, a statement or a tag elsewhere comes back as it was given."""
    odd = [
        "../../etc/passwd",
        "'; DROP TABLE tasks; --",
        "<script>alert(1)</script>",
        "\u540d\u524d \U0001f600",
        "%s{0}$(ls)",
    ]
    examples = [{**example, "label": odd[label]} for example, label in zip(letters.examples, letters.y, strict=True)]
    made = server.create(examples, name=odd[1])
    assert made["classes"] == sorted(odd)
    assert made["name"] == odd[1]
    assert server.predict(made["id"], letters.query(0))[0]["label"] in odd
    assert server.http.get(f"/v1/tasks/{made['id']}/model", headers=server.key).status_code == 200


def test_a_state_that_cannot_be_read_is_its_tasks_alone(server: Server, letters: Letters) -> None:
    good, bad = server.create(letters.examples)["id"], server.create(letters.examples)["id"]
    with server.database.engine.begin() as connection:
        connection.execute(tables.states.update().where(tables.states.c.task == bad).values(content=b"nonsense"))
    for id_ in (good, bad):
        server.service.cache.drop(id_)
    found = asyncio.run(ask_together(server, (good, bad), letters.query(0)))
    assert [answer.status_code for answer in found] == [200, 409]
    assert "cannot be opened" in found[1].json()["detail"]


async def ask_together(server: Server, ids: Sequence[str], query: Any) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=server.http.base_url, headers=server.key, trust_env=False) as http:
        return await asyncio.gather(*(http.post(f"/v1/tasks/{id_}/predict", json=query) for id_ in ids))


def test_another_model_knows_nothing_of_a_task(
    database: Any, model: ServedModel, tmp_path: Path, letters: Letters
) -> None:
    """A state is used with the model that made it, or not at all; so is a file that was downloaded."""
    with Server(database, {"characters": model}, tmp_path).running() as server:
        task = server.create(letters.examples)["id"]
        content = server.http.get(f"/v1/tasks/{task}/model", headers=server.key).content
    other = load_learner("characters")[0]
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    with Server(
        database, {"characters": ServedModel.load(tmp_path / "other", "characters")}, tmp_path
    ).running() as now:
        headers = server.key
        for path, body in (("predict", letters.query(0)), ("examples", {"examples": letters.examples[:1]})):
            answer = now.http.post(f"/v1/tasks/{task}/{path}", json=body, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (409, "urn:kshot:problem:conflict")
            assert f"not served here (digest {model.digest[:12]}...)" in answer.json()["detail"]
        assert now.http.get(f"/v1/tasks/{task}", headers=headers).status_code == 200
        assert now.http.delete(f"/v1/tasks/{task}", headers=headers).status_code == 204
    (tmp_path / "task.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="was adapted from another learner than"):
        AdaptedModel.load(tmp_path / "task.safetensors", run=other)


def test_what_would_keep_everybody_waiting(server: Server, letters: Letters) -> None:
    """Refused before anything is done for each of a list."""
    task, many = server.create(letters.examples)["id"], [{"x": [[0]]}] * 3_000
    for path, body, detail in (
        ("/v1/tasks", {"examples": letters.examples, "unlabeled": many}, "unlabeled: expected at most 2000, got 3,000"),
        (f"/v1/tasks/{task}/predict", {"queries": [0] * 200_000}, "queries: expected at most 256, got 200,000"),
        ("/v1/tasks", {"examples": [0] * 20_001}, "examples: expected at most 20000, got 20,001"),
    ):
        answer = server.http.post(path, json=body, headers=server.key)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:kshot:problem:invalid")
        assert detail in answer.json()["detail"]
    deep = base64.urlsafe_b64encode(b"[" * 5_000).decode()
    large = base64.urlsafe_b64encode(b"[1" + b"0" * 400 + b', "task_000000000000000000000000"]').decode()
    for after in (deep, large, "%%%"):
        answer = server.http.get("/v1/tasks", params={"after": after}, headers=server.key)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:kshot:problem:invalid")
    nested = {"bytes": b64(b"1"), "shape": [1] * 65}
    answer = server.http.post(f"/v1/tasks/{task}/predict", json=nested, headers=server.key)
    assert answer.status_code == 422


def test_pixels_and_values_are_no_one_task(database: Any, model: ServedModel, tmp_path: Path, letters: Letters) -> None:
    with Server(database, {"characters": model}, tmp_path, retention="raw").running() as server:
        task = server.create(letters.examples)["id"]
        seen = {"x": [[[0.5] * 28] * 28], "dtype": "float32", "label": "c0"}
        answer = server.http.post(f"/v1/tasks/{task}/examples", json={"examples": [seen]}, headers=server.key)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:kshot:problem:input")
        assert "as the task's other examples are, got both" in answer.json()["detail"]


def test_too_large_a_body(server: Server) -> None:
    most = server.service.settings.limits.body_bytes
    answer = server.http.post("/v1/tasks", content=b" " * (most + 1), headers=server.key)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:kshot:problem:too-large")

    def parts() -> Any:
        for _ in range(most // 1_000_000 + 2):
            yield b" " * 1_000_000

    answer = server.http.post("/v1/tasks", content=parts(), headers=server.key)  # of no length that is said before
    assert answer.status_code == 413


def test_whoever_sends_slowly_is_not_waited_for(database: Any, model: Any, tmp_path: Any, letters: Letters) -> None:
    limits = {"header_seconds": 0.3, "body_seconds": 0.3}
    with Server(database, {"characters": model}, tmp_path, limits=limits).running() as server:

        def send(text: str) -> bytes:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                connection.sendall(text.encode())
                received = b""
                while part := connection.recv(4096):  # until the server closes
                    received += part
                return received

        for text in ("", "GET / HT", "GET /healthz HTTP/1.1\r\nhost: a\r\nx-slow: "):
            assert send(text).startswith(b"HTTP/1.1 408")
        head = f"POST /v1/tasks HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {server.secret}\r\nconnection: close\r\n"
        slow = send(head + 'content-length: 100\r\n\r\n{"examples"')
        assert slow.startswith(b"HTTP/1.1 408")
        assert json.loads(slow.partition(b"\r\n\r\n")[2])["type"] == "urn:kshot:problem:slow"
        assert server.create(letters.examples)


def test_quotas_and_rates(database: Any, model: Any, tmp_path: Any, letters: Letters) -> None:
    quotas = {"tasks": 2, "examples": 60, "requests_per_second": 20.0}
    with Server(database, {"characters": model}, tmp_path, quotas=quotas).running() as server:
        for _ in range(2):
            task = server.create(letters.examples)["id"]
        more = server.http.post("/v1/tasks", json={"examples": letters.examples}, headers=server.key)
        assert (more.status_code, more.json()["type"]) == (429, "urn:kshot:problem:quota")
        assert "the tenant may store 2 tasks, and this would make 3" in more.json()["detail"]
        more = server.http.post(
            f"/v1/tasks/{task}/examples", json={"examples": letters.examples[:11]}, headers=server.key
        )
        assert "the tenant may store 60 examples, and this would make 61" in more.json()["detail"]
        assert server.http.get(f"/v1/tasks/{task}", headers=server.key).json()["version"] == 1, "nothing of it is done"
        tenant = server.http.get("/v1/tenant", headers=server.key).json()
        holds = tenant["has"]["bytes"]
        body = {"label": "a", "predicted": "b"}
        assert server.http.post(f"/v1/tasks/{task}/feedback", json=body, headers=server.key).status_code == 201
        told = server.http.get("/v1/tenant", headers=server.key).json()["has"]["bytes"] - holds
        assert told > 0, "what is said of queries is stored, too"
        database.write(lambda connection: set_quotas(connection, tenant["tenant"], {"bytes": holds + told})).result()
        more = server.http.post(f"/v1/tasks/{task}/feedback", json=body, headers=server.key)
        assert f"may store {holds + told:,} bytes, and this would make {holds + 2 * told:,}" in more.json()["detail"]
        answers = [server.http.get("/v1/models", headers=server.key) for _ in range(60)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].json()["type"] == "urn:kshot:problem:rate"
        assert int(refused[0].headers["retry-after"]) >= 1
        assert server.http.get("/v1/models", headers=server.other).status_code == 200


def test_every_problem_has_a_name_and_a_status_of_its_own_kind() -> None:
    names = [problem.name for problem in PROBLEMS]
    assert len(set(names)) == len(names)
    for problem in PROBLEMS:
        assert 400 <= problem.status < 600
        assert problem.title
        assert problem.__doc__
