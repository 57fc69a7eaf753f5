"""`/v1/tasks`: made, changed, looked at and erased."""

from __future__ import annotations

import base64
import math
import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from kshot.serving import looking, schemas
from kshot.serving.budgets import Choice
from kshot.serving.changing import Given
from kshot.serving.http import (
    admit,
    admit_to,
    answer,
    body_of,
    changes_of,
    check_labels,
    check_page,
    is_multipart,
    json_of,
    labelled_files,
    say,
    upload_of,
    writing,
)
from kshot.serving.problems import InputError, InvalidError, NotFoundError
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.settings import Limits
from kshot.serving.store.rows import is_task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

MOST = 2**31 - 1
"""The largest number that a database counts to."""

MANY = 10
"""Times the examples that a task may have: so many are looked at, to say what is wrong with them as a task."""

PAGE = 100
"""Tasks or versions of a page at most."""

Number = Annotated[int | None, Query(ge=1, le=MOST)]


async def read_examples(
    http: HTTPRequest, body: bytes, kind: type[BaseModel], limits: Limits
) -> tuple[dict[str, Any], list[tuple[str, Any]], list[Any], list[Any]]:
    """The members of a body beside its examples, and these: labelled, unlabelled and queries."""
    if is_multipart(http):
        upload = await upload_of(http, body, limits.examples + limits.queries)
        labelled, unlabeled, queries = labelled_files(upload)
        check_counts({"examples": labelled, "unlabeled": unlabeled, "queries": queries}, limits)
        for name in upload.fields:
            if name != "request":
                raise InvalidError(f"expected no part but files and request, got {name[:100]!r}")
        try:
            rest = orjson.loads(upload.fields.get("request", "{}"))
        except ValueError as error:
            raise InvalidError(f"expected JSON in the part request: {error}") from None
        if not isinstance(rest, dict) or {"examples", "unlabeled", "queries"} & set(rest):
            raise InvalidError("expected an object without examples in the part request: they are files here")
        stand_in = {"image": ""}
        fields: dict[str, Any] = {"examples": [{**stand_in, "label": "a"}], **rest}
        if "queries" in kind.model_fields:
            fields["queries"] = [stand_in]
        parsed = schemas.parse(kind, fields)
        return parsed.model_dump(), [*labelled], [*unlabeled], [*queries]
    document = json_of(http, body)
    check_counts(document, limits)
    parsed = schemas.parse(kind, document)
    examples = [(item["label"], item) for item in document["examples"]]
    return (
        parsed.model_dump(exclude={"examples", "unlabeled", "queries"}),
        examples,
        document.get("unlabeled", []),
        (document.get("queries", [])),
    )


def check_counts(document: dict[str, Any], limits: Limits) -> None:
    """Before anything is done for each: a small body may hold a million of them.

    Raises:
        InvalidError: a list is longer than it may be.
    """
    most = {"examples": MANY * limits.examples, "unlabeled": limits.examples, "queries": limits.queries}
    for name, limit in most.items():
        found = document.get(name)
        if isinstance(found, list) and len(found) > limit:
            raise InvalidError(f"{name}: expected at most {limit}, got {len(found):,}")


async def given_of(
    service: Service, model: ServedModel, examples: list[tuple[str, Any]], unlabeled: list[Any]
) -> Given:
    """The examples of a request as they are stored."""
    if not examples:
        raise InvalidError("expected examples, got none")
    labels = [label for label, _ in examples]
    check_labels(labels, service.settings.limits)
    reader = service.readers[model.digest]
    x = await service.read(reader, [item for _, item in examples], "examples")
    others = await service.read(reader, unlabeled, "unlabeled") if unlabeled else None
    if others is not None and others.shape[1:] != x.shape[1:]:
        raise InputError(
            f"unlabeled: expected the shape of the other examples, {list(x.shape[1:])}, got {list(others.shape[1:])}"
        )
    return Given(x, labels, others)


@router.post(
    "",
    status_code=201,
    summary="Make a task of examples",
)
async def create(http: HTTPRequest) -> Response:
    service, principal = await admit(http)
    limits = service.settings.limits
    body = await body_of(http, limits)
    request = writing(http, principal, body)
    fields, examples, unlabeled, _ = await read_examples(http, body, schemas.CreateTask, limits)
    began, budget = time.perf_counter(), fields["latency_ms"]
    choice = choice_of(service, fields, examples)
    outcome = await changes_of(http).create(
        request,
        choice.model,
        await given_of(service, choice.model, examples, unlabeled),
        name=fields["name"],
        options=choice.options,
        deadline=None if budget is None else began + budget / 1000,
        said={} if budget is None else {"chosen": choice.document(budget)},
    )
    return answer(outcome)


@router.get("", summary="List tasks, the newest first")
async def list_(http: HTTPRequest, limit: int = 20, after: str | None = None) -> Response:
    service, principal = await admit(http)
    check_page(limit, PAGE)
    found = await looking.page(service, principal, _cursor(after), limit + 1)
    more = found[limit - 1] if len(found) > limit else None
    return say(
        {
            "tasks": [looking.brief(task) for task in found[:limit]],
            "next": None if more is None else _encode([more.created, more.id]),
        }
    )


@router.get("/{task}", summary="What a task is")
async def show(http: HTTPRequest, task: str) -> Response:
    service, principal, row = await admit_to(http, task)
    said = await looking.describe(service, row)
    if said["checking"]:
        changes_of(http).take_up(principal, row)
    return say(said)


@router.delete("/{task}", status_code=204, summary="Delete a task with all that is its own")
async def delete(http: HTTPRequest, task: str) -> Response:
    changes = changes_of(http)
    try:
        _, principal, row = await admit_to(http, task)
    except NotFoundError:
        _, principal = await admit(http)
        kept = await changes.replayed(writing(http, principal, b""))
        if kept is None:
            raise
        return answer(kept)
    return answer(await changes.remove(writing(http, principal, b""), row))


@router.post("/{task}/examples", summary="Add examples")
async def add(http: HTTPRequest, task: str) -> Response:
    service, principal, row = await admit_to(http, task)
    limits = service.settings.limits
    body = await body_of(http, limits)
    request = writing(http, principal, body)
    _, examples, unlabeled, _ = await read_examples(http, body, schemas.AddExamples, limits)
    # The model that adapted it, which may have another one's name by now.
    model = service.by_digest[(await service.state(row)).digest]
    given = await given_of(service, model, examples, unlabeled)
    return answer(await changes_of(http).add(request, row, given))


@router.get("/{task}/examples", summary="List a task's examples")
async def examples(http: HTTPRequest, task: str, limit: int | None = None, after: Number = None) -> Response:
    service, _, row = await admit_to(http, task)
    most = service.settings.limits.examples
    check_page(most if limit is None else limit, most)
    return say(await looking.examples(service, row, after, limit))


@router.delete("/{task}/examples/{number}", summary="Forget an example: the task is as if it had never been there")
async def forget(http: HTTPRequest, task: str, number: Annotated[int, Path(ge=1, le=MOST)]) -> Response:
    _, principal, row = await admit_to(http, task)
    return answer(await changes_of(http).forget(writing(http, principal, b""), row, number))


@router.get("/{task}/versions", summary="List a task's versions, the newest first")
async def versions(http: HTTPRequest, task: str, limit: int = PAGE, after: Number = None) -> Response:
    service, _, row = await admit_to(http, task)
    check_page(limit, PAGE)
    return say(await looking.versions(service, row, after, limit))


@router.post("/{task}/rollback", summary="Go back to an earlier version")
async def rollback(http: HTTPRequest, task: str) -> Response:
    service, principal, row = await admit_to(http, task)
    body = await body_of(http, service.settings.limits)
    request = writing(http, principal, body)
    asked = schemas.parse(schemas.Rollback, json_of(http, body))
    return answer(await changes_of(http).rollback(request, row, asked.version))


@router.get("/{task}/model", summary="Download the adapted task: a safetensors file that `kshot predict` reads")
async def download(http: HTTPRequest, task: str) -> Response:
    service, _, row = await admit_to(http, task)
    content = await looking.artifact(service, row)
    headers = {"Content-Disposition": f'attachment; filename="{row.id}.safetensors"'}
    return Response(content, 200, headers, "application/octet-stream")


def choice_of(service: Service, fields: dict[str, Any], examples: list[tuple[str, Any]]) -> Choice:
    """What adapts to the examples of a request: as it asks, or as its latency budget allows.

    Raises:
        NotFoundError, InvalidError, BudgetError.
    """
    options = options_of(service, service.model(fields["model"]).name, fields["options"])
    return service.choose(fields["model"], [label for label, _ in examples], options, fields["latency_ms"])


def options_of(service: Service, model: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The options of an adaptation, as far as the model takes them.

    Raises:
        InvalidError: it does not, or they are beyond the limits.
    """
    found = {name: value for name, value in asked.items() if value is not None}
    takes = service.models[model].learner.adapt_options
    for name in found:
        if name not in takes:
            raise InvalidError(
                f"options.{name}: the model {model} takes {', '.join(takes) or 'no options'}: leave it out"
            )
    most = service.settings.limits.steps
    if found.get("steps", 0) > most:
        raise InvalidError(f"options.steps: expected at most {most}, got {found['steps']}")
    return found


def _encode(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode()


def _cursor(text: str | None) -> tuple[float, str] | None:
    if text is None:
        return None
    try:
        created, id_ = orjson.loads(base64.urlsafe_b64decode(text.encode()))
        if not (math.isfinite(created) and is_task(id_)):
            raise ValueError
        return float(created), str(id_)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidError("after: expected what the page before gave as next") from error
