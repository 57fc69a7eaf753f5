"""The OpenAPI document: FastAPI writes what it knows of the routes; bodies that are parsed by hand, examples, keys and
problems are said here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import kshot
from kshot.serving import schemas
from kshot.serving.problems import MEDIA_TYPE, PROBLEMS

_REF = "#/components/schemas/{model}"
_OPEN = ("/healthz", "/readyz", "/metrics")
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAwAAAAMAQAAAAB+DmFKAAAA"

CROSSES = (
    f"{_PNG}KElEQVR42mP8/5GJgYHpFwMTAwMTAwPDAQMmBgbGn98hXCY2BiYGBgCNowXlW3Oj7QAAAABJRU5ErkJggg==",
    f"{_PNG}J0lEQVR42iXHsREAEBQFsPxnIftXVnKn5CikS90ZcoRg9FB7/aYJD43uBeXXcVTIAAAAAElFTkSuQmCC",
)
RINGS = (
    f"{_PNG}JUlEQVR42jXCMREAMAgEsPAGaqX+p1pCAUzNpaaDd0OO+Fuo6bBz5AXlmArBDAAAAABJRU5ErkJggg==",
    f"{_PNG}JklEQVR42mP8/5GJgYHhgAETAwMTOwMTAwz9ZGBiYGD8/5GJgQEAc4QF5UHUAswAAAAASUVORK5CYII=",
)

_EXAMPLES = [
    {"image": CROSSES[0], "label": "cross"},
    {"image": CROSSES[1], "label": "cross"},
    {"image": RINGS[0], "label": "ring"},
    {"image": RINGS[1], "label": "ring"},
]
_ACCURACY = {"accuracy": 1.0, "low": 0.51, "high": 1.0, "examples": 4}
_PREDICTION = {
    "label": "cross",
    "probability": 0.98,
    "probabilities": {"cross": 0.98, "ring": 0.02},
    "abstain": False,
    "nearest": [{"example": 1, "distance": 1.7}],
}
_TASK = {
    "id": "task_0123456789abcdef01234567",
    "name": "shapes",
    "model": "characters",
    "version": 1,
    "classes": ["cross", "ring"],
    "examples": 4,
    "unlabeled": 0,
    "leave_one_out": _ACCURACY,
    "suspects": [],
    "checking": False,
}
_TIMINGS = {"timings_ms": {"features": 1.9, "adapt": 0.5, "held_out": 0.9, "total": 6.1}}
_TIMES = {"created": "2026-11-22T10:00:00.000Z", "updated": "2026-11-22T10:00:00.000Z"}

REQUESTS: dict[tuple[str, str], tuple[type[BaseModel], dict[str, Any]]] = {
    ("post", "/v1/tasks"): (schemas.CreateTask, {"examples": _EXAMPLES, "name": "shapes"}),
    ("post", "/v1/tasks/{task}/examples"): (schemas.AddExamples, {"examples": _EXAMPLES[:1]}),
    ("post", "/v1/tasks/{task}/rollback"): (schemas.Rollback, {"version": 1}),
    ("post", "/v1/tasks/{task}/predict"): (schemas.Predict, {"queries": [{"image": CROSSES[1]}], "nearest": 1}),
    ("post", "/v1/tasks/{task}/feedback"): (schemas.Feedback, {"label": "cross", "predicted": "ring"}),
    ("post", "/v1/adapt-predict"): (
        schemas.AdaptPredict,
        {"examples": _EXAMPLES, "queries": [{"image": CROSSES[1]}], "latency_ms": 10_000},
    ),
}
"""Of each body its schema and an example, which works."""

RESPONSES: dict[tuple[str, str], Any] = {
    ("post", "/v1/tasks"): {**_TASK, **_TIMINGS},
    ("post", "/v1/tasks/{task}/examples"): {**_TASK, "version": 2, "examples": 5, **_TIMINGS},
    ("post", "/v1/tasks/{task}/rollback"): {**_TASK, "version": 3, **_TIMINGS},
    ("delete", "/v1/tasks/{task}/examples/{number}"): {**_TASK, "version": 2, "examples": 3, **_TIMINGS},
    ("get", "/v1/tasks/{task}"): {**_TASK, **_TIMES},
    ("get", "/v1/tasks"): {"tasks": [{k: _TASK[k] for k in ("id", "name", "model", "version")} | _TIMES], "next": None},
    ("get", "/v1/tasks/{task}/examples"): {"examples": [{"number": 1, "label": "cross"}], "next": None},
    ("get", "/v1/tasks/{task}/versions"): {
        "versions": [
            {
                "version": 1,
                "current": True,
                "reason": "create",
                "created": _TIMES["created"],
                "model_digest": "5f0c...",
                "examples": 4,
                "leave_one_out": _ACCURACY,
            }
        ],
        "next": None,
    },
    ("post", "/v1/tasks/{task}/predict"): {
        "task": _TASK["id"],
        "version": 1,
        "model": "characters",
        "predictions": [_PREDICTION],
    },
    ("post", "/v1/adapt-predict"): {
        "model": "characters",
        "classes": ["cross", "ring"],
        "leave_one_out": _ACCURACY,
        "suspects": [],
        **_TIMINGS,
        "chosen": {"model": "characters", "latency_ms": 10_000, "expected_ms": 8.2},
        "predictions": [_PREDICTION],
    },
    ("post", "/v1/tasks/{task}/feedback"): {
        "task": _TASK["id"],
        "version": 1,
        "label": "cross",
        "predicted": "ring",
        "right": False,
    },
    ("get", "/v1/tasks/{task}/health"): {
        "task": _TASK["id"],
        "version": 1,
        "queries": 40,
        "confidence": 0.93,
        "abstained": 0.05,
        "drift": {"score": 0.4, "alarm": False, "queries": 40},
        "feedback": {"accuracy": 0.9, "low": 0.6, "high": 0.98, "answers": 10},
    },
}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application."""
    made = get_openapi(title=app.title, version=kshot.__version__, summary=app.summary, routes=app.routes)
    kinds = [(kind, "validation") for kind, _ in REQUESTS.values()]
    _, defined = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]
    made["components"] = {
        "schemas": {**defined["$defs"], "Problem": _problem()},
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "kshot keys create TENANT"}},
    }
    made["security"] = [{"key": []}]
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _complete(operation, (method, path))
            if path in _OPEN:
                operation["security"] = []
    return made


_NOT_KEPT = {("post", "/v1/tasks/{task}/predict"), ("post", "/v1/adapt-predict"), ("delete", "/v1/tenant")}
"""Writes nothing, or takes what was kept with it: sent again it is done again."""


def _complete(operation: dict[str, Any], which: tuple[str, str]) -> None:
    if which in REQUESTS:
        kind, example = REQUESTS[which]
        schema = {"$ref": _REF.format(model=kind.__name__)}
        content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
        if "examples" in kind.model_fields:
            content["multipart/form-data"] = {"schema": _multipart(kind)}
        operation["requestBody"] = {"required": True, "content": content}
    if which[0] in ("post", "delete") and which not in _NOT_KEPT:
        operation.setdefault("parameters", []).append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The request is done once, however often it is sent with this key within a day.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        )
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own, which is not what is answered
    if which in RESPONSES:
        status = next(iter(responses))
        responses[status]["content"] = {"application/json": {"schema": {"type": "object"}, "example": RESPONSES[which]}}
    problem = {"schema": {"$ref": _REF.format(model="Problem")}}
    responses["default"] = {"description": "A problem (RFC 9457)", "content": {MEDIA_TYPE: problem}}


def _multipart(kind: type[BaseModel]) -> dict[str, Any]:
    files = "`examples[LABEL]`, `unlabeled` and `queries`" if "queries" in kind.model_fields else (
        "`examples[LABEL]` and `unlabeled`"
    )  # fmt: skip
    return {
        "type": "object",
        "description": f"Image files in parts named {files}; the other members of the JSON body as a JSON object in a "
        "part `request`.",
        "properties": {"request": {"type": "string", "description": "A JSON object."}},
        "additionalProperties": {"type": "string", "format": "binary"},
    }


def _problem() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "enum": [f"urn:kshot:problem:{kind.name}" for kind in PROBLEMS]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What was expected, what came, what to do."},
            "request": {"type": "string", "description": "Its id, by which the server's log knows the request."},
        },
    }
