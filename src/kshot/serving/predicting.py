"""Predictions for many tenants in one pass: one through the backbone, one through the heads of each shape.

Of few operators: each gives Python's lock away and has to wait for it again, beside an event loop that is busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from kshot import engine
from kshot.episodes import Input, map_input
from kshot.functional import mask_logits
from kshot.serving.grouped import in_groups
from kshot.serving.served import ServedModel
from kshot.serving.states import State


@dataclass(frozen=True, eq=False)
class Question:
    """Queries of one request to one task.

    Attributes:
        state: of the task.
        model: that its learner belongs to.
        x: the queries as they are stored, `[n, *shape]`.
        nearest: how many of the nearest support examples are asked for.
    """

    state: State
    model: ServedModel
    x: Tensor
    nearest: int = 0


@dataclass(frozen=True)
class Answer:
    """What is said of the queries of one request.

    Attributes:
        probabilities: of each class, `[n][labels]`.
        nearest: numbers of the nearest support examples and their distances, `[n][k]`.
        distance: to the nearest one, `[n]`.
    """

    probabilities: list[list[float]]
    nearest: list[list[tuple[int, float]]]
    distance: list[float]


def predict_together(questions: Sequence[Question]) -> list[Answer | Exception]:
    """The answers to questions of any tasks, in their order; an exception is its question's alone."""
    return in_groups(questions, lambda q: (id(q.model), q.x.dtype, q.x.shape[1:]), _predict)


def _predict(questions: Sequence[Question]) -> list[Answer]:
    """Of one model, with queries of one shape."""
    answers: list[Answer | None] = [None] * len(questions)
    model, parts = questions[0].model, [q.x for q in questions]
    z, embedding = model.embed(model.learner, model.normalise(torch.cat(parts)))
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part))
    keys = [(q.state.shape, q.state.support.shape, len(q.x)) for q in questions]
    for group in engine.groups_of(keys):
        rows = torch.tensor([range(ends[i], ends[i + 1]) for i in group])
        those = [questions[i] for i in group]
        found = predict_heads(model, those, map_input(itemgetter(rows), z), embedding[rows])
        for i, answer in zip(group, found, strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


def predict_heads(model: ServedModel, questions: Sequence[Question], z: Input, embedding: Tensor) -> list[Answer]:
    """What comes after the features, for questions of one shape.

    Args:
        z: features of the queries, `[T, n, ...]`.
        embedding: by which the nearest support examples are found, `[T, n, d]`.
    """
    states = [q.state for q in questions]
    logits = engine.predict_tasks(model.learner, [state.adapted for state in states], z)
    if not all(state.whole for state in states):
        logits = mask_logits(logits, torch.stack([state.classes for state in states]))
    temperature = torch.tensor([state.info.get("temperature", 1.0) for state in states])
    probabilities = (logits / temperature.view(-1, 1, 1)).softmax(-1).tolist()
    distances = torch.cdist(embedding, torch.stack([state.support for state in states]))
    most = min(max(1, *(q.nearest for q in questions)), distances.shape[-1])
    values, places = (part.tolist() for part in distances.topk(most, largest=False))
    answers = []
    for q, state, likely, far, where in zip(questions, states, probabilities, values, places, strict=True):
        way, numbers, nearest = len(state.labels), state.numbers, q.nearest
        near: list[list[tuple[int, float]]] = [[]] * len(far)
        if nearest:
            near = [
                [(numbers[i], d) for i, d in zip(row[:nearest], ds, strict=False)]
                for row, ds in zip(where, far, strict=True)
            ]
        # A state is as wide as its learner, which may have more classes than the task.
        rows = likely if len(likely[0]) == way else [row[:way] for row in likely]
        answers.append(Answer(rows, near, [ds[0] for ds in far]))
    return answers


def describe(answer: Answer, state: State, *, top: int | None = None) -> list[dict[str, Any]]:
    """One JSON-able prediction a query: its label, probabilities and whether the task would rather not say."""
    threshold = state.info.get("threshold")
    rows = []
    for values, near in zip(answer.probabilities, answer.nearest, strict=True):
        best = max(range(len(values)), key=values.__getitem__)
        row: dict[str, Any] = {
            "label": state.labels[best],
            "probability": values[best],
            "probabilities": _ranked(values, state.labels, top),
            "abstain": threshold is not None and values[best] < threshold,
        }
        if near:
            row["nearest"] = [{"example": number, "distance": far} for number, far in near]
        rows.append(row)
    return rows


def _ranked(values: list[float], labels: list[str], top: int | None) -> dict[str, float]:
    if top is None:
        return dict(zip(labels, values, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top]
    return {labels[i]: values[i] for i in order}
