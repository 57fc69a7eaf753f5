"""A learner adapted to one task: what predicts."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kshot import engine
from kshot.episodes import Examples, Input, Unlabeled, first_tensor, map_input
from kshot.errors import SupportError, UnsupportedError
from kshot.functional import mask_logits
from kshot.learners.base import Learner, check_finite, check_support_size, evaluating


class AdaptedModel:
    """A predictor for one task.

    Attributes:
        learner: the learner it came from; shared, never changed, and used by one thread at a time.
        adapted: what `learner.adapt` returned: a pytree of tensors.
        classes: bool `[way]`, the classes that the task has.
        labels: the user's name of each class, in the order of the logits; empty for regression.
        metadata: whatever else belongs to the task, JSON-able (the support files' names, say).
    """

    def __init__(
        self,
        learner: Learner,
        adapted: Any,
        classes: Tensor,
        labels: Sequence[Any] = (),
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.learner, self.adapted, self.classes = learner, adapted, classes
        self.labels = list(labels)
        self.metadata = metadata or {}

    @torch.no_grad()
    def predict(self, x: Any) -> Tensor:
        """The learner's output for raw inputs.

        Args:
            x: examples `[n, *shape]`: floats as a task source yields them, or uint8 images, which the learner's
                transform normalises.

        Returns:
            Logits `[n, way]`, those of classes that the task does not have at a finite minimum; values `[n, d]`; or of
            a learner of sequences the logits of the bits `[n, d]` of the n steps after the support, whenever asked.

        Raises:
            SupportError: the examples have the wrong shape or hold NaNs.
        """
        x = prepare_input(self.learner, x, "query")
        with _alone(self.learner):
            z = engine.compute_features(self.learner, x)
            output = self.learner.predict(self.adapted, z)
        return mask_logits(output, self.classes) if self.learner.outputs == "logits" else output

    def probabilities(self, x: Any) -> Tensor:
        """Class probabilities `[n, len(labels)]`, in the order of `labels`.

        Raises:
            UnsupportedError: the learner does not tell classes.
        """
        if self.learner.outputs != "logits":
            raise UnsupportedError(
                f"{type(self.learner).__name__} was made for {self.learner.kind}: use predict(x), which returns "
                f"{'logits of bits' if self.learner.kind == 'sequence' else 'values'}"
            )
        return self.predict(x).softmax(-1)[:, : len(self.labels) or None]

    def classify(self, x: Any) -> list[Any]:
        """The label of each example."""
        return [self.labels[i] for i in self.probabilities(x).argmax(-1).tolist()]

    def save(self, path: str | Path) -> Path:
        """Saves the task as one safetensors file, which `kshot.artifacts.load_adapted` and `kshot predict` read."""
        from kshot.artifacts import save_adapted

        return save_adapted(self, path)


_locks: WeakKeyDictionary[Learner, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


@contextlib.contextmanager
def _alone(learner: Learner) -> Iterator[None]:
    """One thread at a time with a learner, in eval mode.

    A functional call (MAML's) swaps the parameters of the shared module for its length: two threads in it at once
    would leave one task's parameters behind as everyone's.
    """
    with _making:
        lock = _locks.setdefault(learner, threading.RLock())
    with lock, evaluating(learner):
        yield


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
    if not check_finite(x):
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
        SupportError: empty, one class only, NaNs, the wrong shape, or lengths that differ.
        UnsupportedError: more classes than the learner's head, or more examples than its `max_support`.
    """
    if isinstance(support, Examples):
        x, labels = prepare_input(learner, support.x, "support"), list(range(support.way))
        device = first_tensor(x).device
        examples = replace(support.to(device), x=x).widen(learner.way)
        present = int(examples.classes.sum())
    else:
        x = prepare_input(learner, support[0], "support")
        n, device = first_tensor(x).shape[0], first_tensor(x).device
        targets = torch.zeros(n, 0) if learner.kind == "sequence" and support[1] is None else support[1]
        if len(targets) != n:
            raise SupportError(f"expected one label for each of the {n} support examples, got {len(targets)}")
        if learner.outputs == "logits":
            values = targets.tolist() if isinstance(targets, Tensor) else list(targets)
            odd = next((v for v in values if isinstance(v, float) and not v.is_integer()), None)
            if odd is not None:
                raise SupportError(
                    f"expected class labels, got the number {odd:g}: {type(learner).__name__} tells classes apart. For "
                    "regression use a regressor: MAML without way, RidgeNet with out_features=1, CNP"
                )
            labels = sorted(set(values), key=lambda v: (str(type(v)), v))
            index = {label: i for i, label in enumerate(labels)}
            y = torch.tensor([index[value] for value in values], dtype=torch.int64, device=device)
            present = len(labels)
            examples = Examples.of(x, y, way=max(way or 0, learner.way or 0, present))
        else:
            dtype = first_tensor(x).dtype if first_tensor(x).is_floating_point() else None
            try:
                y = torch.as_tensor(targets, dtype=dtype, device=device)
            except (TypeError, ValueError, RuntimeError) as error:
                raise SupportError(
                    f"expected numbers as targets, since this {type(learner).__name__} predicts values, got "
                    f"{next(iter(targets), None)!r}. For classes use a classifier: ProtoNet, or MAML with way=2, say"
                ) from error
            width = 1 if y.ndim == 1 else y.shape[-1]
            if learner.target_size is not None and width != learner.target_size:
                raise SupportError(
                    f"expected targets of {learner.target_size} value{'s' if learner.target_size > 1 else ''}, as many "
                    f"as this {type(learner).__name__} predicts, got {width}: make it with out_features={width}"
                )
            if not bool(torch.isfinite(y).all()):
                raise SupportError("the support targets hold NaN or infinite values: remove or impute them first")
            labels, present = [], 0
            examples = Examples.of(x, y)
    if examples.size == 0 or not bool(examples.mask.any()):
        raise SupportError("the support set is empty: give at least one example of each class")
    check_support_size(learner, int(examples.mask.sum()))
    if learner.outputs == "logits":
        if present < 2:
            raise SupportError(
                f"expected a support set of at least two classes, got {present} ({', '.join(map(str, labels[:1]))}). "
                "Add examples of what the class is to be told from."
            )
        if learner.way is not None and present > learner.way:
            raise UnsupportedError(
                f"this {type(learner).__name__} has a head of {learner.way} classes, the support set has {present}. "
                f"Train one with way={present}, or use a learner without a fixed head (ProtoNet)."
            )
    return examples, labels


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


def adapt(
    learner: Learner, support: Examples | tuple[Any, Any], *, unlabeled: Any = None, **options: Any
) -> AdaptedModel:
    """Adapts a learner to one task, given raw inputs.

    Args:
        learner: left as it is.
        support: `Examples`, or `(x, labels)`: x `[n, *shape]` floats or uint8 images, labels of any kind; of a sequence
            `(x, None)`.
        unlabeled: examples `[m, *shape]` without labels, of the task's classes or of others, for a learner that is
            `semi_supervised`. `Examples` may bring their own; a learner that is not leaves those out.
        options: what the learner's `adapt` takes (`steps=10`, say).

    Raises:
        SupportError: a support set that no learner can adapt to, or unlabelled examples of another shape.
        UnsupportedError: more classes than the learner can tell apart, more examples than its `max_support`, an option
            that it does not have, or unlabelled examples that it makes no use of.

    >>> import torch, kshot
    >>> learner = kshot.ProtoNet(kshot.models.MLP(2, hidden=(8,)))
    >>> model = kshot.adapt(learner, (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), ["up", "right"]))
    >>> model.classify(torch.tensor([[0.0, 0.9]]))
    ['up']
    """
    for name in options:
        if name not in learner.adapt_options:
            known = learner.adapt_options
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It takes: {', '.join(known) or 'no options'}."
            raise UnsupportedError(f"{type(learner).__name__}.adapt takes no option {name!r}. {hint}")
    examples, labels = prepare_support(learner, support)
    examples = replace(examples, unlabeled=prepare_unlabeled(learner, examples, unlabeled))
    with torch.no_grad(), _alone(learner):
        adapted = learner.adapt(engine.featured(learner, examples), **options)
    return AdaptedModel(learner, adapted, examples.classes, labels)


def _reads(learner: Learner, shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "images of that size and channels: kshot.datasets.read_images brings others to them"
    reads = None if learner.transform is None else learner.transform.reads
    return (
        reads
        if reads is not None and reads.startswith("tables")
        else f"examples of {list(shape)}: give the same features"
    )
