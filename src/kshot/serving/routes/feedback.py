"""What becomes of predictions: true labels, and how healthy a task is."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from kshot.serving import looking, schemas
from kshot.serving.http import admit_to, answer, body_of, changes_of, check_labels, json_of, say, writing
from kshot.serving.problems import InvalidError

router = APIRouter(prefix="/v1/tasks", tags=["feedback"])


@router.post("/{task}/feedback", status_code=201, summary="Say what a query was")
async def feedback(http: HTTPRequest, task: str) -> Response:
    service, principal, row = await admit_to(http, task)
    body = await body_of(http, service.settings.limits)
    request = writing(http, principal, body)
    document = json_of(http, body)
    asked = schemas.parse(schemas.Feedback, document)
    check_labels([asked.label], service.settings.limits, "label")
    if asked.predicted is None and asked.query is None:
        raise InvalidError("expected what was predicted, or the query itself")
    state = await service.state(row)
    x = None
    if asked.query is not None:
        reader = service.readers[state.digest]
        x = await service.read(reader, [document["query"]], "query")
    return answer(await changes_of(http).judge(request, row, state, asked.label, asked.predicted, x))


@router.get("/{task}/health", summary="How a task's queries look beside its support, and how often it was right")
async def health(http: HTTPRequest, task: str) -> Response:
    service, _, row = await admit_to(http, task)
    return say(await looking.health(service, row))
