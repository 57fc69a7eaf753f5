"""What a user gives, raw examples and their labels: checked, and brought into the form that a learner takes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kshot.engine.fits import IN_ITS_PLACE, check_kind, check_support_size, check_target_size, check_way, kind_of
from kshot.episodes import Examples, Input, Unlabeled, first_tensor, map_input
from kshot.errors import SupportError, UnsupportedError
from kshot.learners.base import Learner


def prepare_input(learner: Learner, x: Any, what: str) -> Input:
    """Checks raw examples and brings them into the form and onto the device that the learner expects.

    Raises:
        SupportError: not a number, not of the shape that the learner takes, or NaN or infinite somewhere.
    """
    if isinstance(x, dict):
        x = {name: torch.as_tensor(value) for name, value in x.items()}
    else:
        try:
            x = torch.as_tensor(x)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SupportError(
                f"expected the {what} examples as a tensor or a numeric array, got {type(x).__name__}"
            ) from error
        if x.dtype == torch.uint8 and learner.transform is not None:
            x = learner.transform.normalise(x)
        elif not x.is_floating_point() and x.dtype != torch.uint8:
            x = x.to(torch.get_default_dtype())
        shape = learner.input_shape
        if shape is not None and tuple(x.shape[1:]) != shape:
            raise SupportError(
                f"expected {what} examples of shape [n, {', '.join(map(str, shape))}], got {list(x.shape)}. "
                f"It was trained on {_reads(learner, shape)}"
            )
    if not _finite(x):
        raise SupportError(f"the {what} examples hold NaN or infinite values: remove or impute them first")
    parameter = next(learner.parameters(), None)
    if parameter is not None:
        x = map_input(
            lambda t: (
                t.to(parameter.device, parameter.dtype)
                if t.is_floating_point() or t.dtype == torch.uint8
                else t.to(parameter.device)
            ),
            x,
        )
    return x  # type: ignore[no-any-return]


def prepare_support(
    learner: Learner, support: Examples | tuple[Any, Any], way: int | None = None
) -> tuple[Examples, list[Any]]:
    """Checks a support set and returns it with the labels' names.

    Args:
        support: `Examples`, or `(x, labels)` with labels of any kind (strings, numbers); floats for regression; None
            for a sequence, whose steps have none.
        way: classes to make room for; by default those that are there (a fixed head's own size where it has one).

    Raises:
        SupportError: empty, one class only, NaNs, the wrong shape, lengths that differ, or labels that are none.
        UnsupportedError: targets of another kind of tasks than the learner's, or of another size; more classes than
            its head, or more examples than its `max_support`.
    """
    labels: list[Any] = []
    if isinstance(support, Examples):
        check_kind(learner, kind_of(support), "the support set is for")
        check_target_size(learner, support.y.shape[-1])
        x = prepare_input(learner, support.x, "support")
        examples = replace(support.to(first_tensor(x).device), x=x).widen(learner.way)
        if learner.kind == "classification":
            labels = list(range(support.way))
    else:
        x = prepare_input(learner, support[0], "support")
        targets = _targets(learner, support[1], first_tensor(x).shape[0])
        if learner.kind == "classification":
            names = _names(learner, targets)
            labels = sorted(set(names), key=lambda v: (str(type(v)), v))
            index = {label: i for i, label in enumerate(labels)}
            y = torch.tensor([index[name] for name in names], dtype=torch.int64, device=first_tensor(x).device)
            examples = Examples.of(x, y, way=max(way or 0, learner.way or 0, len(labels)))
        else:
            examples = Examples.of(x, _values(learner, targets, first_tensor(x)))
    if examples.size == 0 or not bool(examples.mask.any()):
        raise SupportError("the support set is empty: give at least one example of each class")
    check_support_size(learner, int(examples.mask.sum()))
    if learner.kind == "classification":
        present = int(examples.classes.sum()) if isinstance(support, Examples) else len(labels)
        if present < 2:
            raise SupportError(
                f"expected a support set of at least two classes, got {present} ({', '.join(map(str, labels[:1]))}). "
                "Add examples of what the class is to be told from."
            )
        check_way(learner, present, "the support set has")
    return examples, labels


def _targets(learner: Learner, targets: Any, n: int) -> Any:
    """The labels or values as they were given, one for each of `n` examples."""
    name = type(learner).__name__
    if learner.kind == "sequence":
        if targets is not None and getattr(targets, "shape", None) != (n, 0):
            raise UnsupportedError(
                f"expected None in place of labels, since this {name} reads a sequence, whose steps have none: give "
                f"(sequence, None). For labels {IN_ITS_PLACE['classification']}"
            )
        return torch.zeros(n, 0)
    what = f"expected one {'target' if learner.kind == 'regression' else 'label'} for each of the {n} support examples"
    try:
        count = len(targets)
    except TypeError as error:
        raise SupportError(f"{what}, got {targets!r}: a {name} needs them") from error
    if count != n:
        raise SupportError(f"{what}, got {count}")
    return targets


def _names(learner: Learner, targets: Any) -> list[Any]:
    """Labels of any kind as they are, one for each example; whole numbers may be floats, or tensors of one."""
    shape = getattr(targets, "shape", None)
    if shape is not None and hasattr(targets, "tolist"):
        values: list[Any] = targets.tolist()
    else:  # tensors of one number each are told apart by identity, not by the number
        values = [v.item() if isinstance(v, Tensor) and v.ndim == 0 else v for v in targets]
    does = f"this {type(learner).__name__} does classification, for regression {IN_ITS_PLACE['regression']}"
    if shape is not None and len(shape) > 1:
        what = f"expected class labels [n], one for each example, got {list(shape)}"
        if "float" in str(getattr(targets, "dtype", "")):
            raise UnsupportedError(f"{what}: {does}")
        raise SupportError(f"{what}: flatten them")
    odd = next((v for v in values if isinstance(v, (float, np.floating)) and not float(v).is_integer()), None)
    if odd is not None:
        raise UnsupportedError(f"expected class labels, got the number {odd:g}: {does}")
    unfit = next((v for v in values if not isinstance(v, Hashable)), None)
    if unfit is not None:
        raise SupportError(f"expected class labels, names or numbers, got {unfit!r}: give one for each example")
    return values


def _values(learner: Learner, targets: Any, x: Tensor) -> Tensor:
    """Targets of regression (or the none of a sequence) as a tensor beside the examples."""
    name = type(learner).__name__
    try:
        y = torch.as_tensor(targets, dtype=x.dtype if x.is_floating_point() else None, device=x.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedError(
            f"expected numbers as targets, since this {name} predicts values, got {next(iter(targets), None)!r}. For "
            f"classes {IN_ITS_PLACE['classification']}"
        ) from error
    check_target_size(learner, 1 if y.ndim == 1 else y.shape[-1])
    if not bool(torch.isfinite(y).all()):
        raise SupportError("the support targets hold NaN or infinite values: remove or impute them first")
    return y


def check_semi_supervised(learner: Learner) -> None:
    """Raises UnsupportedError for a learner that makes no use of unlabelled examples."""
    if not learner.semi_supervised:
        from kshot.learners import all_learners

        can = ", ".join(cls.__name__ for cls in all_learners().values() if cls.semi_supervised)
        raise UnsupportedError(
            f"{type(learner).__name__} makes no use of unlabelled examples: leave unlabeled out, or use a learner that "
            f"does ({can})"
        )


def prepare_unlabeled(learner: Learner, support: Examples, unlabeled: Any) -> Unlabeled | None:
    """Checks the unlabelled examples of a task, given beside its support set or in it.

    Raises:
        SupportError: given twice, NaNs, or the wrong shape.
        UnsupportedError: given beside the support set to a learner that makes no use of them.
    """
    given = support.unlabeled
    if unlabeled is None:
        if given is None or not learner.semi_supervised:
            return None
        x = prepare_input(learner, given.x, "unlabeled")
        return replace(given, x=x, mask=given.mask.to(first_tensor(x).device))
    check_semi_supervised(learner)
    if given is not None:
        raise SupportError("the unlabelled examples are there twice: in the support set and as unlabeled")
    x = prepare_input(learner, unlabeled, "unlabeled")
    return Unlabeled.of(x) if first_tensor(x).shape[0] else None


def _reads(learner: Learner, shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "images of that size and channels: kshot.datasets.read_images brings others to them"
    reads = None if learner.transform is None else learner.transform.reads
    return (
        reads
        if reads is not None and reads.startswith("tables")
        else f"examples of {list(shape)}: give the same features"
    )


def _finite(x: Input) -> bool:
    """Whether every number is finite."""
    values = x.values() if isinstance(x, dict) else [x]
    return all(bool(torch.isfinite(v).all()) for v in values if v.is_floating_point())
