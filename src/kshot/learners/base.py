"""The protocol: a learner turns a labelled support set into a predictor.

::

    features(x) -> z                     what all tasks share, outside any task
    adapt(support) -> adapted            one task: a pytree of tensors, nothing else
    predict(adapted, z) -> output        one task

Write these three for one task. `learner(episodes)` runs them over a meta-batch, `kshot.Trainer` trains it,
`kshot.evaluate` measures it, `learner.save_pretrained` saves it, and the conformance suite tests it.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kshot import engine
from kshot.capture import CapturedModule
from kshot.episodes import Episodes, Examples
from kshot.errors import UnsupportedError
from kshot.functional import masked_binary_cross_entropy, masked_cross_entropy, masked_gaussian_nll, masked_mse
from kshot.models import norms

if TYPE_CHECKING:
    from kshot.datasets.transform import Transform

MetaGradient = Literal["exact", "first_order", "implicit", "reptile"]
Outputs = Literal["logits", "values", "mean_variance", "bits"]


class Learner(CapturedModule):
    """Base class of every meta-learning algorithm.

    A learner is an `nn.Module` whose parameters are the meta-parameters. It keeps nothing of a task in `self`: what
    `adapt` finds out is in what it returns.

    What a learner declares, as class attributes or properties:

    Attributes:
        meta_gradient: kind of gradient that `learner(episodes).mean().backward()` gives.
        outputs: `"logits"` `[n, way]`, `"values"` `[n, d]`, `"mean_variance"` `[n, 2d]`, means and then log-variances,
            or `"bits"` `[n, d]`, the logits of bits; decides the default loss, and which kind of tasks the learner
            does.
        transductive: whether a prediction depends on the other queries.
        semi_supervised: whether `adapt` makes use of `support.unlabeled`; where it does not, it never gets any.
        modes: engine modes that its hooks can run in.
        native: whether its hooks take whole meta-batches (any leading dimensions) as they are.
        native_predict: whether `predict` alone does, of states and queries: what many tasks are asked with at once.
        support_order_matters: whether the order of the support examples may change the prediction.
        max_support: the longest support that it takes, padding left out; None: any.
        toy_steps, toy_accuracy: outer steps that its `tiny` instances take at most on the conformance suite's toys, and
            the accuracy that they reach there. A learner that has to find its algorithm from nothing takes more steps;
            one that states less accuracy has a reason for it written beside.
        recomputes: whether its meta-gradient goes back through inner steps that can be forgotten and computed again
            (`kshot.engine.recomputing`).
        unrolls: whether its hooks take the examples one after another, so that a compiled graph grows with them.
        suggested: by kind of tasks, constructor arguments that suit it better than the defaults do; a comparison takes
            them where none of them is said otherwise.
        suggested_training: arguments of a `Trainer` that suit it better than the defaults do, likewise.
        sequential: whether the queries are steps of time, so that an output depends on the queries before it, too, and
            never on those after it.
    """

    meta_gradient: MetaGradient = "exact"
    outputs: Outputs = "logits"
    transductive: bool = False
    semi_supervised: bool = False
    modes: tuple[str, ...] = ("loop", "vmap", "compile")
    native: bool = False
    native_predict: bool = False
    support_order_matters: bool = False
    max_support: int | None = None
    toy_steps: int = 250
    toy_accuracy: float = 0.85
    unrolls: bool = False
    recomputes: bool = False
    suggested: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    suggested_training: ClassVar[Mapping[str, Any]] = {}
    sequential: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.transform: Transform | None = None
        self.provenance: dict[str, Any] = {}
        self._modes: dict[Any, str] = {}

    @classmethod
    def check_arguments(cls, arguments: dict[str, Any]) -> None:
        """What the names of constructor arguments stand for in every learner that has them.

        Raises:
            UnsupportedError: a `backbone` that is no module, a `way` that is no number of classes, an `inner_lr` that
                is none.
        """
        backbone, way, lr = (arguments.get(name) for name in ("backbone", "way", "inner_lr"))
        if "backbone" in arguments and not isinstance(backbone, nn.Module):
            raise UnsupportedError(
                f"expected the backbone of a {cls.__name__} to be a network such as kshot.models.Conv4(in_channels=1), "
                f"got {backbone!r}"
            )
        if way is not None and (isinstance(way, bool) or not isinstance(way, Integral) or way < 2):
            raise UnsupportedError(
                f"expected at least 2 classes, got way={way!r}; way=None makes a regressor, where there can be one"
            )
        if isinstance(lr, str) or (isinstance(lr, Real) and not 0 <= float(lr) < math.inf):
            raise UnsupportedError(f"expected inner_lr to be a finite step size of at least 0, got {lr!r}")

    # ---------------------------------------------------------------- the author's side

    def features(self, x: Any) -> Any:
        """What all tasks share and no task adapts, of raw examples `[n, *shape]`; the identity by default."""
        return x

    def adapt(self, support: Examples, **options: Any) -> Any:
        """Turns one task's support set (of features) into what its predictions need: a pytree of tensors.

        Steps, deadlines and the like are keyword options.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no adapt(support)")

    def predict(self, adapted: Any, x: Any) -> Any:
        """The output for one task's features `x` `[n, ...]`, in the form that `outputs` declares.

        A transductive or sequential learner may take a third argument `mask` `[n]` (or None: all real), which queries
        are real.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no predict(adapted, x)")

    def loss(self, output: Any, query: Examples) -> Tensor:
        """What the outer loop minimises, of one task, as `outputs` says: cross entropy (binary for bits), squared error
        or negative log-likelihood."""
        if self.outputs == "logits":
            return masked_cross_entropy(output, query)
        if self.outputs == "bits":
            return masked_binary_cross_entropy(output, query)
        return masked_mse(output, query) if self.outputs == "values" else masked_gaussian_nll(output, query)

    def objective(self, support: Examples, query: Examples) -> Tensor:
        """One task's loss as the outer loop sees it: `loss(predict(adapt(support), query.x), query)` by default.

        One that takes a third argument `class_ids` gets the task's, int64 `[way]`: which classes of the pool they are.
        """
        return self.loss(self.predict_with_mask(self.adapt(support), query), query)

    def support_limit(self, trained_on: int) -> int | None:
        """What `max_support` will be once a Trainer has shown it support sets of at most so many examples."""
        return self.max_support

    def begin_step(self, step: int | None) -> None:
        """What changes in the course of a training: called by the Trainer before each outer step, with how many there
        were, and with None when it is over. Nothing else tells a learner about time, so that a resumed run is the same
        run."""

    @classmethod
    def tiny(cls, kind: str = "classification") -> Learner:
        """A small instance for the conformance suite.

        Args:
            kind: `"classification"`: 5 ways of 8 features; `"regression"`: 1 feature, 1 value; `"sequence"`: 4
                channels, 3 bits.

        Raises:
            UnsupportedError: the learner does not do that kind of task.
        """
        raise UnsupportedError(f"{cls.__name__} defines no tiny({kind!r})")

    # ---------------------------------------------------------------- the user's side

    def forward(self, episodes: Episodes, mode: str = "auto", chunk: int | None = None) -> Tensor:
        """The loss of every task of a meta-batch.

        Args:
            episodes: raw inputs (normalised as the task source yields them).
            mode: `"loop"`, `"vmap"`, `"compile"`, `"native"`, or `"auto"`: the fastest of those that need no
                compiling, measured at the first call with these shapes.
            chunk: tasks at once, where memory asks for it.

        Returns:
            `[T]`; `losses.mean().backward()` gives the meta-gradient.
        """
        losses = engine.task_losses(self, episodes, self.mode_for(episodes) if mode == "auto" else mode, chunk)
        norms.commit(self)
        return losses

    def mode_for(self, episodes: Episodes) -> str:
        """The engine mode that `"auto"` stands for with episodes of this shape: measured once and remembered."""
        unlabeled = episodes.support.unlabeled if self.semi_supervised else None
        key = (
            tuple(episodes.support.mask.shape),
            tuple(episodes.query.mask.shape),
            None if unlabeled is None else tuple(unlabeled.mask.shape),
            str(episodes.device),
            self.training,
        )
        if key not in self._modes:
            self._modes[key] = engine.choose(self, episodes)
        return self._modes[key]

    def predict_with_mask(self, adapted: Any, query: Examples) -> Any:
        """`predict`, with the query mask for a learner that takes it."""
        if "mask" in inspect.signature(self.predict).parameters:
            return self.predict(adapted, query.x, mask=query.mask if query.padded else None)  # type: ignore[call-arg]
        return self.predict(adapted, query.x)

    def shares_features(self) -> bool:
        """Whether the learner overrides `features`."""
        return type(self).features is not Learner.features

    @property
    def adapt_options(self) -> tuple[str, ...]:
        """The names of the keyword options that `adapt` takes."""
        parameters = list(inspect.signature(self.adapt).parameters.values())[1:]
        return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one raw example, where the backbone knows it."""
        for module in self.modules():
            shape = getattr(module, "input_shape", None) if module is not self else None
            if shape is not None:
                return tuple(shape)
        return None

    @property
    def kind(self) -> str:
        """The kind of tasks that it does: what a split of tasks has as its `kind`."""
        return {"logits": "classification", "bits": "sequence"}.get(self.outputs, "regression")

    @property
    def bits(self) -> int | None:
        """Of a learner of sequences: the bits that it answers with at each step, where they are fixed (None: any)."""
        return None

    @property
    def target_size(self) -> int | None:
        """The number of values that a regressor predicts for an example, where that is known."""
        return None

    @property
    def way(self) -> int | None:
        """The largest number of classes, where the learner has a fixed head (None: any)."""
        return None

    def save_pretrained(self, path: str | Path) -> Path:
        """Saves the learner as a folder: `config.json`, `model.safetensors` and a `README.md` card."""
        from kshot.artifacts import save_pretrained

        return save_pretrained(self, path)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Any:
        """Loads what `save_pretrained` (or a run) saved.

        Raises:
            ArtifactError: another version, missing or unexpected keys, or a learner of another class.
        """
        from kshot.artifacts import from_pretrained
        from kshot.errors import ArtifactError

        learner = from_pretrained(path)
        if not isinstance(learner, cls):
            raise ArtifactError(f"{path} holds a {type(learner).__name__}, expected a {cls.__name__}")
        return learner

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions hold this very instance and do not survive a copy.
        state = self.__dict__.copy()
        state.pop("_compiled", None)
        state.pop("_lengths", None)
        state["_modes"] = {}
        return state


@contextlib.contextmanager
def evaluating(learner: Learner) -> Iterator[None]:
    """Eval mode for the length of a block; each module gets its own mode back."""
    modes = [(module, module.training) for module in learner.modules()]
    learner.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def attach(value: Tensor, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
    """`value`, whose gradient in each parameter is the given one: how an objective brings a meta-gradient of its own.

    Args:
        value: a scalar; what it depends on is forgotten.
        parameters: of the learner, by any names.
        gradients: by the same names, of the parameters' shapes.
    """
    # p - p is zero, and its derivative is not.
    terms = [((p - p.detach()) * gradients[name].detach()).sum() for name, p in parameters.items()]
    return value.detach() + torch.stack(terms).sum()


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
