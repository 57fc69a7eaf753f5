"""The HTTP face of a `Service`: FastAPI's routes, and around them each request's id, log line and problems."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import kshot
from kshot.serving.changing import Changes
from kshot.serving.door import Door
from kshot.serving.http import problem_response
from kshot.serving.metrics import Metrics
from kshot.serving.openapi import document
from kshot.serving.problems import InternalError, InvalidError, MethodError, NotFoundError, ProblemError
from kshot.serving.promoting import look, move_all
from kshot.serving.routes import feedback, operations, predictions, tasks, tenants
from kshot.serving.service import Service

_log = logging.getLogger("kshot.serving")
FLUSH_SECONDS = 5.0
"""Between two times that what was only counted is written down."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROCESS, _NUMBERS = secrets.token_hex(5), itertools.count()
"""A request's own id: of this process, and how many there were before."""

_TASK = re.compile(r"(?<=^/v1/tasks/)[^/]+")
_EXAMPLE = re.compile(r"(?<=/examples/)[^/]+")
_PREDICT = re.compile(r"/v1/tasks/([^/]+)/predict")


def create_app(service: Service) -> ASGIApp:
    """The application that serves a service, which is closed when the application ends."""
    return Door(Around(Direct(_routes(service)), service.metrics), service)


def _routes(service: Service) -> FastAPI:
    async def flushing() -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await asyncio.to_thread(service.flush)
            except Exception:
                _log.exception("what was counted could not be written")
            try:
                await look(service, app.state.changes)
            except Exception:
                _log.exception("no promoted model could be looked for")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(flushing())
        for model in service.models.values():  # a move that an earlier process began, or could not begin
            service.later(move_all(service, app.state.changes, model))
        yield
        task.cancel()
        await service.give_up()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="kshot",
        version=kshot.__version__,
        summary="Post a few labelled examples, get a working model back.",
        lifespan=lifespan,
    )
    app.openapi = partial(_described, app)  # type: ignore[method-assign]
    app.state.service, app.state.changes = service, Changes(service)
    for module in (tasks, predictions, feedback, tenants, operations):
        app.include_router(module.router)
    app.add_exception_handler(ProblemError, _on_problem)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _on_validation)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _on_http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _on_other)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = document(app)
    return app.openapi_schema


class Direct:
    """Takes predictions, of which there are most by far, past the framework's layers to their route: they would cost as
    much as the rest of it."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PREDICT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        scope["app"] = self.app
        http = HTTPRequest(scope, receive)
        try:
            response = await predictions.predict(http, found[1])
        except ProblemError as error:
            response = await _on_problem(http, error)
        await response(scope, receive, send)


class Around:
    """Gives each request an id, logs and measures it, and answers for what was not expected."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"x-request-id"), "")
        request = given if _ID.fullmatch(given) else f"{_PROCESS}{next(_NUMBERS):06x}"
        scope.setdefault("state", {})["request"] = request
        began, status, answered = time.perf_counter(), 500, False

        async def sending(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", request.encode())]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:
            _log.exception("unexpected", extra={"request": request})
            if not answered:
                await _unexpected(request)(scope, receive, sending)
            elif status != 500:
                raise  # in the middle of an answer
        finally:
            seconds = time.perf_counter() - began
            self.metrics.requests.labels(_route_of(scope["path"], status), status).observe(seconds)
            _log.info(
                "request",
                extra={
                    "request": request,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1000 * seconds, 2),
                },
            )


def _route_of(path: str, status: int) -> str:
    """A path without what a client may write there, or there would be a counter for everything that one does; of those
    that there are not, one name for all."""
    return "other" if status in (404, 405) else _EXAMPLE.sub("{number}", _TASK.sub("{task}", path))


def _unexpected(request: str | None) -> Response:
    return problem_response(InternalError(f"not expected: the server's log says more of request {request}"), request)


async def _on_other(http: HTTPRequest, _: Exception) -> Response:
    return _unexpected(getattr(http.state, "request", None))


async def _on_problem(http: HTTPRequest, error: ProblemError) -> Response:
    return problem_response(error, getattr(http.state, "request", None))


async def _on_validation(http: HTTPRequest, error: RequestValidationError) -> Response:
    first: Any = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return await _on_problem(http, InvalidError(f"{where}: {first['msg']}, got {str(first['input'])[:60]!r}"))


async def _on_http(http: HTTPRequest, error: HTTPException) -> Response:
    kind = MethodError if error.status_code == 405 else NotFoundError
    return await _on_problem(http, kind(f"{http.method} {http.url.path[:200]}: there is no such path and method"))
