"""A tenant's own: what it used, what was done, all that is stored of it, and its end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from kshot.serving import looking
from kshot.serving.http import admit, changes_of, check_page, say, writing

router = APIRouter(prefix="/v1/tenant", tags=["tenant"])

PAGE = 1_000

LAST = 2**62
"""No line of the log has a larger number."""


@router.get("", summary="What the tenant has, may have, and used by day")
async def show(http: HTTPRequest) -> Response:
    return say(await looking.tenant(*await admit(http)))


@router.get("/audit", summary="Who adapted, changed and deleted what, the newest first")
async def audit(
    http: HTTPRequest, limit: int = 100, before: Annotated[int | None, Query(ge=1, le=LAST)] = None
) -> Response:
    service, principal = await admit(http)
    service.allow(principal, "admin")
    check_page(limit, PAGE)
    return say(await looking.audit(service, principal, before, limit))


@router.get("/export", summary="All that is stored of the tenant, a JSON document a line")
async def export(http: HTTPRequest) -> Response:
    from starlette.responses import StreamingResponse

    service, principal = await admit(http)
    service.allow(principal, "admin")
    await changes_of(http).note(principal, http.state.request, "tenant.export")
    return StreamingResponse(looking.export(service, principal), media_type="application/jsonl")


@router.delete("", status_code=204, summary="Erase the tenant: its tasks, its examples, its keys")
async def erase(http: HTTPRequest) -> Response:
    service, principal = await admit(http)
    service.allow(principal, "admin")
    await changes_of(http).erase_tenant(writing(http, principal, b""))
    return Response(None, 204)
