"""Whether the server lives, is ready, and what it serves."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from kshot.serving import looking
from kshot.serving.http import admit, say, service_of

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> Response:
    return say({"status": "ok"})


@router.get("/readyz", summary="Whether requests can be answered")
async def readyz(http: HTTPRequest) -> Response:
    problems = await service_of(http).problems()
    return say({"status": "not ready" if problems else "ready", "problems": problems}, 503 if problems else 200)


@router.get("/v1/models", summary="The models that are served")
async def models(http: HTTPRequest) -> Response:
    service, _ = await admit(http)
    return say({"models": [looking.about(service, name) for name in service.models]})


@router.get("/metrics", summary="Counters for Prometheus")
async def metrics(http: HTTPRequest) -> Response:
    from prometheus_client import CONTENT_TYPE_LATEST

    return Response(service_of(http).metrics.text(), media_type=CONTENT_TYPE_LATEST)
