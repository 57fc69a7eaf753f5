"""The OpenAPI document: every example in it works, and whatever it allows is answered without a server's error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import schemathesis
from serving_toys import Server

from kshot.serving.openapi import REQUESTS, RESPONSES


def test_every_example_works_and_is_answered_as_it_says(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    server.service.measure()
    made: dict[str, Any] = {}
    for (method, path), (_, body) in REQUESTS.items():
        operation = document["paths"][path][method]
        assert operation["requestBody"]["content"]["application/json"]["example"] == body
        answer = server.http.request(method, path.replace("{task}", made.get("id", "")), json=body, headers=server.key)
        assert answer.status_code in (200, 201), answer.text
        made = made or answer.json()
        assert str(answer.status_code) in operation["responses"]
        for name in RESPONSES[method, path]:
            assert name in answer.json(), (path, name)
    for (method, path), said in RESPONSES.items():
        if method == "get":
            answer = server.http.get(path.replace("{task}", made["id"]), headers=server.key).json()
            assert set(said) == set(answer), path
    # Nothing in it points at what is not there.
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= names


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_nothing_that_the_document_allows_is_an_error_of_the_server(server: Server) -> None:
    server.service.measure()
    made = server.create(REQUESTS["post", "/v1/tasks"][1]["examples"])
    schema = schemathesis.openapi.from_dict(server.http.get("/openapi.json").json())
    for result in schema.get_all_operations():
        operation = result.ok()
        if (operation.method, operation.path) == ("delete", "/v1/tenant"):
            continue  # it would be the end of the others

        @hypothesis.settings(
            max_examples=12, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(operation.as_strategy(), hypothesis.strategies.booleans())
        def ask(case: Any, real: bool) -> None:
            if real and "task" in (case.path_parameters or {}):
                case.path_parameters["task"] = made["id"]
            answer = case.call(base_url=f"http://127.0.0.1:{server.port}", headers=server.key)
            assert answer.status_code < 500 or answer.status_code == 504, (case, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"][0] == "application/problem+json", (case, answer.text)

        ask()
