"""Whether a learner can do what it is given: one wording, wherever tasks come in.

A support set, episodes and a split are asked the same questions. `what` begins each answer's second half, and says
whose number or kind follows: "the support set has", "the tasks of train have up to".
"""

from __future__ import annotations

from typing import Protocol

from kshot.episodes import Examples
from kshot.errors import UnsupportedError

IN_ITS_PLACE = {
    "classification": "use a classifier (ProtoNet; MAML with way=5, say), or other tasks",
    "regression": "use a regressor (MAML without way, RidgeNet with out_features=1, CNP), or other tasks",
    "sequence": "use a learner of sequences (NTM), or other tasks",
}
"""What does tasks of a kind."""


class Limits(Protocol):
    """What a learner says of the tasks that it can do (see `kshot.Learner`)."""

    max_support: int | None

    @property
    def kind(self) -> str: ...

    @property
    def way(self) -> int | None: ...

    @property
    def target_size(self) -> int | None: ...


def kind_of(support: Examples) -> str:
    """The kind of tasks that has such a support set: labels `[..., n]`, values `[..., n, d]`, or steps without any,
    `[..., n, 0]`."""
    y = support.y
    if y.ndim == support.mask.ndim and not y.is_floating_point():
        return "classification"
    return "regression" if y.shape[-1] else "sequence"


def check_kind(learner: Limits, kind: str, what: str) -> None:
    """Raises UnsupportedError for tasks of another kind than the learner's."""
    if kind != learner.kind:
        raise of_another_kind(_name(learner), learner.kind, kind, what)


def of_another_kind(name: str, does: str, kind: str, what: str) -> UnsupportedError:
    """The error of a learner, by its class's name, that does another kind of tasks."""
    return UnsupportedError(f"this {name} does {does}, {what} {kind}: {IN_ITS_PLACE[kind]}")


def check_way(learner: Limits, way: int, what: str) -> None:
    """Raises UnsupportedError for more classes than a fixed head has."""
    if learner.way is not None and way > learner.way:
        raise UnsupportedError(
            f"this {_name(learner)} has a head of {learner.way} classes, {what} {way}: make it with way={way}, give "
            "fewer classes, or use a learner without a fixed head (ProtoNet)"
        )


def check_support_size(learner: Limits, n: int, what: str = "the support set has", limit: int | None = None) -> None:
    """Raises UnsupportedError for more support examples, padding left out, than the learner takes.

    Args:
        limit: in place of its own, for a learner that is still to be trained.
    """
    limit = learner.max_support if limit is None else limit
    if limit is not None and n > limit:
        raise UnsupportedError(
            f"this {_name(learner)} was made or trained for at most {limit} support examples, {what} {n}: give fewer, "
            f"train one with max_support={n} on tasks as long, or use a learner without such a limit "
            "(InContextTransformer)"
        )


def check_target_size(learner: Limits, width: int, what: str = "the support set has") -> None:
    """Raises UnsupportedError for targets of more or fewer values than a regressor predicts."""
    own = learner.target_size
    if learner.kind == "regression" and own is not None and width != own:
        raise UnsupportedError(
            f"this {_name(learner)} predicts {own} value{'s' if own > 1 else ''} for an example, {what} targets of "
            f"{width}: make it (or its network, where that gives the values) with out_features={width}, or give "
            f"targets of {own}"
        )


def _name(learner: Limits) -> str:
    return type(learner).__name__
