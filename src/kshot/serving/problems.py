"""What the server answers when it cannot do what was asked: problem details (RFC 9457).

One class a problem, with its name, its status and what to do; the documentation lists them all.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that cannot be answered.

    Attributes:
        name: of the kind of problem; its `type` is `urn:kshot:problem:NAME`.
        status: of the response.
        title: the kind, in a few words.
        detail: this case: what was expected, what came, what to do.
        headers: of the response.
        extra: further members of the document.
    """

    name: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The server made a mistake"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail, self.headers, self.extra = detail, headers or {}, extra

    def document(self, request: str | None = None) -> dict[str, Any]:
        """The body of the response.

        Args:
            request: its id, by which the server's logs know it.
        """
        about = {"type": f"urn:kshot:problem:{self.name}", "title": self.title, "status": self.status}
        return {**about, "detail": self.detail, **self.extra, **({"request": request} if request else {})}


class InternalError(ProblemError):
    """Not expected: the logs say more under the request's id."""


class InvalidError(ProblemError):
    """A body, a header or a parameter that is not of the documented form."""

    name, status, title = "invalid", 422, "The request is not of the documented form"


class UnreadableError(ProblemError):
    """A body that is no JSON, or no multipart."""

    name, status, title = "unreadable", 400, "The body cannot be read"


class MediaTypeError(ProblemError):
    """A body of a kind that is not taken here."""

    name, status, title = "media-type", 415, "The body is of another kind"


class InputError(ProblemError):
    """Examples that the model cannot take: another shape, NaNs, no image."""

    name, status, title = "input", 422, "The examples do not suit the model"


class SupportProblemError(ProblemError):
    """Examples that no task can be made of: one class only, more classes than the model's."""

    name, status, title = "support", 422, "The examples make no task"


class TooLargeError(ProblemError):
    """More bytes than a request may have."""

    name, status, title = "too-large", 413, "The request is too large"


class SlowError(ProblemError):
    """A body that took too long to arrive."""

    name, status, title = "slow", 408, "The request took too long to arrive"


class UnauthenticatedError(ProblemError):
    """No key, or none that is valid."""

    name, status, title = "unauthenticated", 401, "A valid key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class ForbiddenError(ProblemError):
    """A key whose scopes do not allow it."""

    name, status, title = "forbidden", 403, "The key does not allow this"


class NotFoundError(ProblemError):
    """Nothing of that name that the key's tenant could see."""

    name, status, title = "not-found", 404, "There is no such thing"


class MethodError(ProblemError):
    """A method that this path does not know."""

    name, status, title = "method", 405, "The path does not know this method"


class ConflictProblemError(ProblemError):
    """Somebody else changed the task at the same time, or what it is does not allow the change."""

    name, status, title = "conflict", 409, "The task is not in a state for this"


class IdempotencyError(ProblemError):
    """An Idempotency-Key that was used for another request."""

    name, status, title = "idempotency", 422, "The Idempotency-Key belongs to another request"


class QuotaProblemError(ProblemError):
    """The tenant has as much as it may."""

    name, status, title = "quota", 429, "The tenant's quota is used up"


class RateError(ProblemError):
    """More requests a second than the tenant may make."""

    name, status, title = "rate", 429, "Too many requests"

    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


class BusyProblemError(ProblemError):
    """The server's waiting room is full."""

    name, status, title = "busy", 503, "The server is busy"

    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


class DeadlineError(ProblemError):
    """What was asked for could not be begun before its deadline."""

    name, status, title = "deadline", 504, "The deadline passed"


class BudgetError(ProblemError):
    """No model that is served adapts within the latency budget."""

    name, status, title = "budget", 422, "The latency budget is too small"


PROBLEMS = tuple(cls for cls in ProblemError.__subclasses__())
"""Every problem, for the documentation."""
