"""What requests and responses look like: checked by pydantic, shown in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kshot.serving.problems import InvalidError

Array = Annotated[
    Any,
    Field(
        description="An array of numbers: pixels from 0 to 255, [height][width] or [height][width][channels], for a "
        "model of images (any size: it is resized), or the values that the network sees with dtype float32."
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Example(_Body):
    """One example, in one of three forms: an array `x`, an `image` file, the `bytes` of an array."""

    x: Array = None
    image: str | None = Field(default=None, description="An image file (PNG, JPEG, ...) in base64.")
    bytes: str | None = Field(default=None, description="The bytes of an array, little-endian, row by row, in base64.")
    shape: list[int] | None = Field(default=None, max_length=8, description="Of the array in `bytes`.")
    dtype: Literal["uint8", "float32"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Example:
        given = [name for name in ("x", "image", "bytes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of x, image and bytes, got {' and '.join(given) or 'none of them'}")
        return self


class LabelledExample(Example):
    """An example and its class."""

    label: str = Field(min_length=1)


class Options(_Body):
    """How to adapt, for a model that takes them."""

    steps: int | None = Field(default=None, ge=0, description="Inner steps of a model that takes any.")


class CreateTask(_Body):
    """A new task."""

    examples: list[LabelledExample]
    unlabeled: list[Example] = Field(
        default_factory=list,
        description="Examples without labels: the answer says which of them to label next. A semi-supervised model "
        "learns from them, too.",
    )
    model: str | None = Field(default=None, description="By default the server's first.")
    name: str | None = Field(default=None, max_length=200, pattern=r"^[^\x00-\x1f]*$")
    options: Options = Field(default_factory=Options)
    latency_ms: float | None = Field(
        default=None,
        gt=0,
        description="How long the adaptation may take. The server chooses the model (where none is named) and its "
        "steps within it, and says so in `chosen`; it refuses what cannot fit (422), and what was not begun in time "
        "(504).",
    )


class AddExamples(_Body):
    """More examples of a task."""

    examples: list[LabelledExample] = Field(min_length=1)
    unlabeled: list[Example] = Field(default_factory=list)


class Rollback(_Body):
    """The version to go back to."""

    version: int = Field(ge=1, le=2**31 - 1)


class Predict(_Body):
    """What to predict: `queries`, or one of them as the body itself."""

    queries: list[Example] = Field(min_length=1)
    nearest: int = Field(default=0, ge=0, le=100, description="How many of the nearest support examples to name.")
    top: int | None = Field(default=None, ge=1, description="Only so many of the likeliest classes.")
    latency_ms: float | None = Field(default=None, gt=0, description="Not begun by then, it is not predicted (504).")


class AdaptPredict(CreateTask):
    """Examples and queries of a task that is not stored."""

    queries: list[Example] = Field(min_length=1)
    nearest: int = Field(default=0, ge=0, le=100)
    top: int | None = Field(default=None, ge=1)


class Feedback(_Body):
    """The true label of a query, and the query, if it may be kept."""

    label: str = Field(min_length=1)
    predicted: str | None = Field(default=None, max_length=1_000)
    query: Example | None = None


Model = TypeVar("Model", bound=BaseModel)


def parse(kind: type[Model], document: Any) -> Model:
    """A document as what it has to be.

    Raises:
        InvalidError: it is not of that form; what is wrong, where.
    """
    try:
        return kind.model_validate(document, strict=True)
    except ValidationError as error:
        problems = [_in_words(problem) for problem in error.errors(include_url=False, include_context=False)]
        more = f" and {len(problems) - 3} more problems" if len(problems) > 3 else ""
        raise InvalidError("; ".join(problems[:3]) + more) from None


def _in_words(problem: Any) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    text = problem["msg"].removeprefix("Value error, ")
    got = repr(problem["input"])
    shown = "" if problem["type"] in ("missing", "value_error") else f", got {got[:60]}{'...' if len(got) > 60 else ''}"
    return f"{where or 'the body'}: {text[:1].lower()}{text[1:]}{shown}"
