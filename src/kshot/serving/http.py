"""What every route does with a request before its own work, and with what comes of it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from kshot.serving.changing import Changes, Outcome, Request
from kshot.serving.problems import (
    MEDIA_TYPE,
    InvalidError,
    MediaTypeError,
    ProblemError,
    SlowError,
    TooLargeError,
    UnreadableError,
)
from kshot.serving.service import Service
from kshot.serving.settings import Limits
from kshot.serving.store.rows import Principal, TaskRow

_log = logging.getLogger("kshot.serving")


@dataclass(frozen=True)
class Upload:
    """What a multipart body holds: files by the name of their part, and the other parts' texts."""

    files: list[tuple[str, bytes]]
    fields: dict[str, str]


def service_of(http: HTTPRequest) -> Service:
    service: Service = http.app.state.service
    return service


def changes_of(http: HTTPRequest) -> Changes:
    changes: Changes = http.app.state.changes
    return changes


async def admit(http: HTTPRequest) -> tuple[Service, Principal]:
    """The service, and who asks it.

    Raises:
        UnauthenticatedError, RateError.
    """
    service = service_of(http)
    return service, await service.admit(_secret_of(http))


async def admit_to(http: HTTPRequest, task: str) -> tuple[Service, Principal, TaskRow]:
    """The service, who asks it, and the task that is asked about.

    Raises:
        UnauthenticatedError, RateError, NotFoundError.
    """
    service = service_of(http)
    return service, *await service.admit_to(_secret_of(http), task)


def _secret_of(http: HTTPRequest) -> str | None:
    """The key that a request shows."""
    kind, _, secret = http.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


async def body_of(http: HTTPRequest, limits: Limits) -> bytes:
    """The body, as long as it is not too large. How long it may take is the protocol's to watch (`protocol`).

    Raises:
        TooLargeError: it is.
        SlowError: the connection was closed before it was here.
    """
    length = http.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise TooLargeError(f"expected a body of at most {limits.body_bytes:,} bytes, got {int(length):,}")
    parts, size, more = [], 0, True
    while more:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            raise SlowError("the client went away before its body was here")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limits.body_bytes:
            raise TooLargeError(f"expected a body of at most {limits.body_bytes:,} bytes, got more")
    return b"".join(parts)


def json_of(http: HTTPRequest, body: bytes) -> dict[str, Any]:
    """A JSON body.

    Raises:
        MediaTypeError: it says that it is something else.
        UnreadableError, InvalidError: it is none, or no object.
    """
    kind = http.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeError(f"expected Content-Type application/json, got {kind[:100]!r}")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UnreadableError(f"expected JSON in UTF-8: {error}") from None
    if not isinstance(document, dict):
        raise InvalidError(f"expected a JSON object, got a {type(document).__name__}")
    return document


def is_multipart(http: HTTPRequest) -> bool:
    return http.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def upload_of(http: HTTPRequest, body: bytes, most: int) -> Upload:
    """A multipart body.

    Raises:
        UnreadableError: it is none, or has more parts than `most`.
    """
    from starlette.formparsers import MultiPartException, MultiPartParser

    if not body.rstrip().endswith(b"--"):
        raise UnreadableError("expected a whole multipart/form-data body, got one without its closing boundary")

    async def stream() -> Any:
        yield body

    try:
        form = await MultiPartParser(
            http.headers, stream(), max_files=most, max_fields=50, max_part_size=1_000_000
        ).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise UnreadableError(f"expected a multipart/form-data body: {getattr(error, 'message', error)}") from None
    files, fields = [], {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            fields[name] = value
        else:
            files.append((name, await value.read()))
    await form.close()
    return Upload(files, fields)


def labelled_files(upload: Upload) -> tuple[list[tuple[str, bytes]], list[bytes], list[bytes]]:
    """Of the parts `examples[LABEL]`, `unlabeled` and `queries` the labelled, unlabelled and asked images.

    Raises:
        InvalidError: a file of another name.
    """
    labelled, unlabeled, queries = [], [], []
    for name, content in upload.files:
        if name.startswith("examples[") and name.endswith("]") and len(name) > len("examples[]"):
            labelled.append((name[len("examples[") : -1], content))
        elif name == "unlabeled":
            unlabeled.append(content)
        elif name == "queries":
            queries.append(content)
        else:
            raise InvalidError(
                f"expected files named examples[LABEL], unlabeled or queries, got {name[:100]!r}: the label of an "
                "image stands in the name of its part"
            )
    return labelled, unlabeled, queries


def writing(http: HTTPRequest, principal: Principal, body: bytes) -> Request:
    """A request that changes something.

    Raises:
        ForbiddenError: the key may not.
        InvalidError: an Idempotency-Key that is too long.
    """
    Service.allow(principal, "write")
    key = http.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise InvalidError(f"expected an Idempotency-Key of 1 to 255 characters, got {len(key)}")
    # A multipart body has a boundary of its own each time: what identifies a request is what is in it.
    head = f"{http.method} {http.url.path}?{http.url.query}\n"
    given = re.search(r'boundary="?([^";]+)', http.headers.get("content-type", ""))
    boundary = b"--" + given[1].encode() if given else b""
    return Request(principal, http.state.request, key, fingerprint(head.encode(), body, boundary))


def fingerprint(head: bytes, body: bytes, boundary: bytes = b"") -> bytes:
    """SHA-256 of what a request asks for."""
    return hashlib.sha256(head + (body.replace(boundary, b"") if boundary else body)).digest()


def answer(outcome: Outcome) -> Response:
    """The response to a change."""
    headers = {"Idempotent-Replayed": "true"} if outcome.replayed else None
    if outcome.status == 204:
        return Response(None, 204, headers)
    return Response(orjson.dumps(outcome.document), outcome.status, headers, "application/json")


def say(document: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(document), status, media_type="application/json")


def problem_response(error: ProblemError, request: str | None) -> Response:
    """A problem as a response."""
    return Response(json.dumps(error.document(request)).encode(), error.status, error.headers, MEDIA_TYPE)


def check_page(limit: int, most: int) -> None:
    """Raises InvalidError for a page of another length than one may have."""
    if not 1 <= limit <= most:
        raise InvalidError(f"limit: expected 1 to {most}, got {limit}")


def check_labels(labels: Sequence[str], limits: Limits, where: str = "examples[{}].label") -> None:
    """Raises InvalidError for a label that is longer than labels may be.

    Args:
        where: what the i-th one is called.
    """
    for i, label in enumerate(labels):
        size = len(label.encode("utf-8", "surrogatepass"))
        if size > limits.label_bytes:
            raise InvalidError(f"{where.format(i)}: expected at most {limits.label_bytes} bytes, got {size:,}")
        if any(0xD800 <= ord(c) <= 0xDFFF or ord(c) < 32 for c in label):
            raise InvalidError(f"{where.format(i)}: expected text without control characters, got {label[:40]!r}")
