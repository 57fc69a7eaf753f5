"""What becomes of predictions: true labels, and how healthy a task is."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from kshot.serving import looking, schemas
from kshot.serving.http import answer, body_of, changes_of, check_labels, json_of, say, secret_of, service_of, writing
from kshot.serving.problems import InvalidError
from kshot.serving.routes.tasks import _documented

router = APIRouter(prefix="/v1/tasks", tags=["feedback"])


@router.post(
    "/{task}/feedback", status_code=201, summary="Say what a query was", openapi_extra=_documented(schemas.Feedback)
)
async def feedback(http: HTTPRequest, task: str) -> Response:
    service = service_of(http)
    principal = await service.principal(secret_of(http))
    row = await service.task(principal, task)
    body = await body_of(http, service.settings.limits)
    request = writing(http, principal, body)
    document = json_of(http, body)
    asked = schemas.parse(schemas.Feedback, document)
    check_labels([asked.label], service.settings.limits)
    if asked.predicted is None and asked.query is None:
        raise InvalidError("expected what was predicted, or the query itself")
    state = await service.state(row)
    x = None
    if asked.query is not None:
        reader = service.readers[service.by_digest[state.digest].name]
        x = await service.parsing(reader.read, [document["query"]], "query")
    return answer(await changes_of(http).judge(request, row, state, asked.label, asked.predicted, x))


@router.get("/{task}/health", summary="How a task's queries look beside its support, and how often it was right")
async def health(http: HTTPRequest, task: str) -> Response:
    service = service_of(http)
    principal = await service.principal(secret_of(http))
    return say(await looking.health(service, await service.task(principal, task)))
