"""A learner adapted to one task: what predicts."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kshot import engine
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.functional import mask_logits
from kshot.learners.base import Learner, evaluating
from kshot.learners.support import prepare_input, prepare_support, prepare_unlabeled


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
            Logits `[n, way]`, those of classes that the task does not have at a finite minimum; values `[n, d]`, of one
            with `outputs = "mean_variance"` (CNP, ANP) means and then their log-variances `[n, 2d]`; or of a learner of
            sequences the logits of the bits `[n, d]` of the n steps after the support, whenever asked.

        Raises:
            SupportError: the examples have the wrong shape or hold NaNs.
        """
        x = prepare_input(self.learner, x, "query")
        with _alone(self.learner):
            z = engine.compute_features(self.learner, x)
            output = self.learner.predict(self.adapted, z)
        return mask_logits(output, self.classes) if self.learner.outputs == "logits" else output

    def probabilities(self, x: Any) -> Tensor:
        """Class probabilities `[n, len(labels)]`, in the order of `labels`; of logits over `metadata["temperature"]`
        where a server has calibrated the task.

        Raises:
            UnsupportedError: the learner does not tell classes.
        """
        if self.learner.outputs != "logits":
            raise UnsupportedError(
                f"{type(self.learner).__name__} was made for {self.learner.kind}: use predict(x), which returns "
                f"{'logits of bits' if self.learner.kind == 'sequence' else 'values'}"
            )
        temperature = float(self.metadata.get("temperature", 1.0))
        return (self.predict(x) / temperature).softmax(-1)[:, : len(self.labels) or None]

    def classify(self, x: Any) -> list[Any]:
        """The label of each example."""
        return [self.labels[i] for i in self.probabilities(x).argmax(-1).tolist()]

    def save(self, path: str | Path) -> Path:
        """Saves the task as one safetensors file, which `AdaptedModel.load` and `kshot predict` read."""
        from kshot.artifacts import save_adapted

        return save_adapted(self, path)

    @classmethod
    def load(cls, path: str | Path, run: str | Path | Learner | None = None) -> AdaptedModel:
        """Loads a saved task, and the learner that it belongs to (see `kshot.artifacts.load_adapted`).

        Args:
            path: of the task.
            run: the learner, or where it is, if it is not where it was.

        Raises:
            ArtifactError: no such task, or its learner is not there or another one.
        """
        from kshot.artifacts import load_adapted

        return load_adapted(path, run=run)


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
        UnsupportedError: tasks of another kind, or targets of another size, than the learner's; more classes than it
            can tell apart, more examples than its `max_support`, an option that it does not have, or unlabelled
            examples that it makes no use of.

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
    steps = options.get("steps")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, Integral)):
        raise UnsupportedError(f"expected steps to be a whole number, got {steps!r}")
    examples, labels = prepare_support(learner, support)
    examples = replace(examples, unlabeled=prepare_unlabeled(learner, examples, unlabeled))
    with torch.no_grad(), _alone(learner):
        adapted = learner.adapt(engine.featured(learner, examples), **options)
    return AdaptedModel(learner, adapted, examples.classes, labels)
