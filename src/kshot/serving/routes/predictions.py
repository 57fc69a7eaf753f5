"""Predictions, of stored tasks and of those that nothing is kept of."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from kshot.serving import schemas
from kshot.serving.health import Seen
from kshot.serving.http import admit, admit_to, body_of, changes_of, json_of, say
from kshot.serving.predicting import describe
from kshot.serving.problems import InputError, InvalidError
from kshot.serving.routes.tasks import check_counts, choice_of, given_of, read_examples

router = APIRouter(prefix="/v1", tags=["predictions"])


@router.post("/tasks/{task}/predict", summary="Predict")
async def predict(http: HTTPRequest, task: str) -> Response:
    service, principal, row = await admit_to(http, task)
    service.allow(principal, "predict")
    began = time.perf_counter()
    document = json_of(http, await body_of(http, service.settings.limits))
    queries, nearest, top, deadline = [document], 0, None, None
    if "queries" in document or not ({"x", "image", "bytes"} & document.keys()):
        check_counts(document, service.settings.limits)
        asked = schemas.parse(schemas.Predict, document)
        queries, nearest, top = document["queries"], asked.nearest, asked.top
        deadline = None if asked.latency_ms is None else began + asked.latency_ms / 1000
    elif document.keys() != {"x"}:  # one array, the way of most requests, the reader checks alone
        schemas.parse(schemas.Example, document)
    state = await service.state(row)
    reader = service.readers[state.digest]
    x = await service.read(reader, queries, "queries")
    found = await service.predict(principal, state, x, nearest=nearest, deadline=deadline)
    rows = describe(found, state, top=top)
    service.watch.add(row.id, state.version, Seen.of(found.distance, rows))
    service.meter.add(principal.tenant, predictions=len(rows))
    return say({"task": row.id, "version": state.version, "model": row.model, "predictions": rows})


@router.post(
    "/adapt-predict",
    summary="Adapt to examples and predict, and keep nothing",
)
async def adapt_predict(http: HTTPRequest) -> Response:
    service, principal = await admit(http)
    limits = service.settings.limits
    service.allow(principal, "predict")
    began = time.perf_counter()
    body = await body_of(http, limits)
    fields, examples, unlabeled, queries = await read_examples(http, body, schemas.AdaptPredict, limits)
    if not queries:
        raise InvalidError("expected queries, got none")
    budget, choice = fields["latency_ms"], choice_of(service, fields, examples)
    deadline = None if budget is None else began + budget / 1000
    given = await given_of(service, choice.model, examples, unlabeled)
    asked = await service.read(service.readers[choice.model.digest], queries, "queries")
    if asked.shape[1:] != given.x.shape[1:]:
        raise InputError(
            f"expected queries of the shape of the examples, {list(given.x.shape[1:])}, got {list(asked.shape[1:])}"
        )
    state, document = await changes_of(http).adapt_only(principal, choice.model, given, choice.options, deadline)
    found = await service.predict(principal, state, asked, nearest=fields["nearest"], deadline=deadline)
    await changes_of(http).note(principal, http.state.request, "adapt-predict", examples=len(examples))
    if budget is not None:
        document["chosen"] = choice.document(budget)
    document["timings_ms"]["total"] = round(1000 * (time.perf_counter() - began), 3)
    service.meter.add(principal.tenant, adaptations=1, predictions=len(asked))
    return say({**document, "predictions": describe(found, state, top=fields["top"])})
