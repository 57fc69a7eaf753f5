"""A server's Python face: `Client`, and `AsyncClient` for asyncio.

It needs no torch: httpx is all that a program takes that asks a server.
"""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kshot.errors import KshotError, MissingExtraError

if TYPE_CHECKING:
    import httpx

LATER = (429, 503)
"""Statuses of a server that asks to be asked later, and did nothing."""


class ServerError(KshotError):
    """The server answered with a problem, or not at all.

    Attributes:
        status: of the response; 0 where there was none.
        name: of the kind of problem: `not-found`, say.
        document: the problem as the server gave it (RFC 9457).
    """

    def __init__(self, message: str, status: int = 0, document: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.document = status, dict(document or {})
        self.name = str(self.document.get("type", "")).rpartition(":")[2]


def example(x: Any) -> dict[str, Any]:
    """An example as the server takes it.

    Args:
        x: an image's path, its bytes or a Pillow image; or an array (NumPy, torch, nested lists): whole numbers are
            pixels, floats what the network sees.

    Raises:
        ServerError: an image that cannot be read, or whole numbers that are no pixels.
    """
    if isinstance(x, Mapping):
        return dict(x)
    if isinstance(x, (str, Path)):
        try:
            x = Path(x).read_bytes()
        except OSError as error:
            raise ServerError(f"{x} cannot be read: {error.strerror or error}") from error
    if hasattr(x, "getbands"):  # a Pillow image
        import io

        buffer = io.BytesIO()
        x.save(buffer, format="PNG")
        x = buffer.getvalue()
    if isinstance(x, (bytes, bytearray)):
        return {"image": base64.b64encode(x).decode()}
    import numpy as np

    array = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
    kind = "float32" if array.dtype.kind == "f" else "uint8"
    if kind == "uint8" and array.size and (array.min() < 0 or array.max() > 255):
        raise ServerError(f"expected pixels from 0 to 255, or floats, got {array.min()} to {array.max()}")
    content = np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<")).tobytes()
    return {"bytes": base64.b64encode(content).decode(), "shape": list(array.shape), "dtype": kind}


@dataclass(frozen=True)
class _Call:
    """A request, and what of its answer is wanted."""

    method: str
    path: str
    json: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None
    raw: bool = False


class _Pages:
    """The pages of a list, one after the other.

    Args:
        path: of the list.
        part: of an answer that holds the items.
        limit: so many items; None: all.
    """

    def __init__(self, path: str, part: str, limit: int | None) -> None:
        self._path, self._part, self._left = path, part, limit
        self._after: str | int | None = None
        self.more = limit is None or limit > 0

    @property
    def call(self) -> _Call:
        """What asks for the next page."""
        return _Call("GET", self._path, params={"limit": 100, **_said(after=self._after)})

    def take(self, page: Any) -> list[dict[str, Any]]:
        """The items of a page, as many as are wanted."""
        found: list[dict[str, Any]] = page[self._part][: self._left]
        if self._left is not None:
            self._left -= len(found)
        self._after = page["next"]
        self.more = self._after is not None and self._left != 0
        return found


class _Calls:
    """What can be asked, as requests."""

    def create_task(
        self,
        x: Sequence[Any],
        labels: Sequence[Any],
        *,
        unlabeled: Sequence[Any] = (),
        model: str | None = None,
        name: str | None = None,
        steps: int | None = None,
        latency_ms: float | None = None,
    ) -> Any:
        """A new task, adapted to examples: its id, its classes, how well it tells its own examples.

        Args:
            x: the examples (see `example`).
            labels: one each.
            unlabeled: examples without labels: the answer's `label_next` says in which order to label them.
            model: by default the server's first.
            name: to find it by.
            steps: inner steps, of a model that takes any.
            latency_ms: how long the adaptation may take: the server chooses model and steps within it (`chosen`).

        Raises:
            ServerError: the server refused, with what it said.
        """
        body = {
            "examples": _labelled(x, labels),
            **_without_labels(unlabeled),
            **_said(model=model, name=name, latency_ms=latency_ms),
        }
        if steps is not None:
            body["options"] = {"steps": steps}
        return self._do(_Call("POST", "/v1/tasks", body))

    def add_examples(self, task: str, x: Sequence[Any], labels: Sequence[Any], *, unlabeled: Sequence[Any] = ()) -> Any:
        """A task's next version, adapted to more examples; `unlabeled` as in `create_task`."""
        body = {"examples": _labelled(x, labels), **_without_labels(unlabeled)}
        return self._do(_Call("POST", f"{_task(task)}/examples", body))

    def forget_example(self, task: str, number: int) -> Any:
        """A task's next version, which never saw the example of that number."""
        return self._do(_Call("DELETE", f"{_task(task)}/examples/{int(number)}"))

    def rollback(self, task: str, version: int) -> Any:
        """A task's next version, like an earlier one."""
        return self._do(_Call("POST", f"{_task(task)}/rollback", {"version": version}))

    def predict(
        self,
        task: str,
        x: Sequence[Any],
        *,
        nearest: int = 0,
        top: int | None = None,
        latency_ms: float | None = None,
    ) -> Any:
        """A prediction for each example: its label, probabilities, whether the task would rather not say."""
        body = {
            "queries": [example(one) for one in x],
            "nearest": nearest,
            **_said(top=top, latency_ms=latency_ms),
        }
        return self._do(_Call("POST", f"{_task(task)}/predict", body, part="predictions"))

    def adapt_predict(
        self,
        x: Sequence[Any],
        labels: Sequence[Any],
        queries: Sequence[Any],
        *,
        model: str | None = None,
        steps: int | None = None,
        nearest: int = 0,
        top: int | None = None,
        latency_ms: float | None = None,
    ) -> Any:
        """Predictions of a task that is made for them, and not kept."""
        body = {
            "examples": _labelled(x, labels),
            "queries": [example(one) for one in queries],
            "nearest": nearest,
            **_said(model=model, latency_ms=latency_ms, top=top),
        }
        if steps is not None:
            body["options"] = {"steps": steps}
        return self._do(_Call("POST", "/v1/adapt-predict", body, part="predictions"))

    def export(self) -> Any:
        """All that is stored of the tenant, as bytes: a JSON document a line. The key needs the scope admin."""
        return self._do(_Call("GET", "/v1/tenant/export", raw=True))

    def audit(self, limit: int = 100, before: int | None = None) -> Any:
        """Who adapted, changed and deleted what, the newest first: a page of `audit`, and `next`, the `before` of the
        page after it. The key needs the scope admin."""
        return self._do(_Call("GET", "/v1/tenant/audit", params={"limit": limit, **_said(before=before)}))

    def erase(self) -> Any:
        """Erases the tenant: its tasks, its examples, its keys. The key needs the scope admin."""
        return self._do(_Call("DELETE", "/v1/tenant"))

    def feedback(self, task: str, label: Any, *, predicted: Any = None, query: Any = None) -> Any:
        """Says what a query was: beside what was predicted, or the query itself."""
        body: dict[str, Any] = {"label": str(label)}
        if predicted is not None:
            body["predicted"] = str(predicted)
        if query is not None:
            body["query"] = example(query)
        return self._do(_Call("POST", f"{_task(task)}/feedback", body))

    def task(self, task: str) -> Any:
        """What is known of a task."""
        return self._do(_Call("GET", _task(task)))

    def examples(self, task: str) -> Any:
        """The numbers and labels of a task's examples."""
        return self._do(_Call("GET", f"{_task(task)}/examples", part="examples"))

    def health(self, task: str) -> Any:
        """How a task's queries look beside its support, and how often it was right."""
        return self._do(_Call("GET", f"{_task(task)}/health"))

    def download(self, task: str) -> Any:
        """The adapted task as the bytes of a safetensors file, which `kshot predict` reads."""
        return self._do(_Call("GET", f"{_task(task)}/model", raw=True))

    def delete(self, task: str) -> Any:
        """Deletes a task with all that is its own."""
        return self._do(_Call("DELETE", _task(task)))

    def models(self) -> Any:
        """The models that are served."""
        return self._do(_Call("GET", "/v1/models", part="models"))

    def tenant(self) -> Any:
        """What the key's tenant has, may have, and used."""
        return self._do(_Call("GET", "/v1/tenant"))

    def _do(self, call: _Call) -> Any:
        """What comes of a request: `Client` waits for it, `AsyncClient` gives what is to be awaited."""
        raise NotImplementedError


class _Connection:
    """Where the server is, and how it is asked."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, *, timeout: float = 60.0, tries: int = 4
    ) -> None:
        self.url, self.timeout, self.tries = url.rstrip("/"), timeout, tries
        if not url.startswith(("http://", "https://")):
            raise ServerError(f"expected a server's address such as http://127.0.0.1:8000, got {url!r}")
        self._key = key or os.environ.get("KSHOT_KEY") or None

    def _options(self) -> dict[str, Any]:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        return {"base_url": self.url, "headers": headers, "timeout": self.timeout}

    @staticmethod
    def _headers(call: _Call) -> dict[str, str]:
        # What is sent again, as its answer was lost, is done once.
        return {} if call.method == "GET" else {"Idempotency-Key": str(uuid.uuid4())}

    def _settled(self, call: _Call, tried: int, answer: Any) -> tuple[bool, Any]:
        """Whether a try was the last one, and its result; or how many seconds to wait for the next.

        Args:
            tried: how often it was sent.
            answer: the response, or why there was none.
        """
        last = tried >= self.tries
        if isinstance(answer, Exception):
            if last:
                reason = str(answer) or type(answer).__name__
                raise ServerError(f"no answer from {self.url}: {reason}. Is the server running there?") from answer
            return False, 0.2 * 2.0**tried
        # A quota is used up however long one waits.
        if last or answer.status_code not in LATER or _document(answer).get("type", "").endswith(":quota"):
            return True, self._result(call, answer)
        seconds = answer.headers.get("retry-after", "")  # which may be a date, of a balancer's
        return False, min(10.0, float(seconds) if seconds.isdigit() else 1.0)

    def _result(self, call: _Call, response: httpx.Response) -> Any:
        if response.is_error:
            document = _document(response)
            detail = document.get("detail") or document.get("title") or response.text[:200]
            raise ServerError(f"{detail} ({response.status_code})", response.status_code, document)
        if call.raw:
            return response.content
        if response.status_code == 204:
            return None
        document = response.json()
        return document if call.part is None else document[call.part]


class Client(_Calls, _Connection):
    """Asks a server.

    Args:
        url: of the server.
        key: by default `$KSHOT_KEY`.
        timeout: seconds for one request.
        tries: how often a request is sent: again where there was no answer, or the server asked for it.

    Raises:
        MissingExtraError: httpx is not installed.

    >>> client = Client("http://127.0.0.1:8000", "ks_...")
    >>> client.close()
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = _httpx().Client(**self._options())

    def tasks(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The tenant's tasks, the newest first, page by page as they are asked for."""
        return self._pages(_Pages("/v1/tasks", "tasks", limit))

    def versions(self, task: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The versions of a task, the newest first, likewise."""
        return self._pages(_Pages(f"{_task(task)}/versions", "versions", limit))

    def _pages(self, pages: _Pages) -> Iterator[dict[str, Any]]:
        while pages.more:
            yield from pages.take(self._do(pages.call))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, call: _Call) -> Any:
        headers, tried, done = self._headers(call), 0, False
        while not done:
            tried += 1
            try:
                answer: Any = self._http.request(
                    call.method, call.path, json=call.json, params=dict(call.params), headers=headers
                )
            except _httpx().TransportError as error:
                answer = error
            done, value = self._settled(call, tried, answer)
            if not done:
                time.sleep(value)
        return value


class AsyncClient(_Calls, _Connection):
    """Asks a server from asyncio: the methods of `Client`, each to be awaited."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = _httpx().AsyncClient(**self._options())

    def tasks(self, limit: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """The tenant's tasks, the newest first, page by page as they are asked for."""
        return self._pages(_Pages("/v1/tasks", "tasks", limit))

    def versions(self, task: str, limit: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """The versions of a task, the newest first, likewise."""
        return self._pages(_Pages(f"{_task(task)}/versions", "versions", limit))

    async def _pages(self, pages: _Pages) -> AsyncIterator[dict[str, Any]]:
        while pages.more:
            for item in pages.take(await self._do(pages.call)):
                yield item

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _do(self, call: _Call) -> Any:
        import asyncio

        headers, tried, done = self._headers(call), 0, False
        while not done:
            tried += 1
            try:
                answer: Any = await self._http.request(
                    call.method, call.path, json=call.json, params=dict(call.params), headers=headers
                )
            except _httpx().TransportError as error:
                answer = error
            done, value = self._settled(call, tried, answer)
            if not done:
                await asyncio.sleep(value)
        return value


def _document(response: httpx.Response) -> dict[str, Any]:
    """A problem as the server gave it; nothing where somebody else answered, a balancer say."""
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError("httpx", "serve") from error
    return httpx


def _task(task: str) -> str:
    return f"/v1/tasks/{quote(task, safe='')}"


def _labelled(x: Sequence[Any], labels: Sequence[Any]) -> list[dict[str, Any]]:
    if len(x) != len(labels):
        raise ServerError(f"expected a label for each of the {len(x)} examples, got {len(labels)}")
    return [{**example(one), "label": str(label)} for one, label in zip(x, labels, strict=True)]


def _without_labels(x: Sequence[Any]) -> dict[str, Any]:
    return {"unlabeled": [example(one) for one in x]} if len(x) else {}


def _said(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
