"""What a task looks like as tensors: `Examples` (a labelled set), `Unlabeled` (what may come with a support set) and
`Episodes` (support and query of many tasks).

Uneven tasks are padded to one shape and masked: `mask` says which examples are real, `classes` which classes the task
has. All are frozen dataclasses and torch pytrees, so `torch.vmap` maps over them and `tree_map` reaches
their tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from kshot.errors import SupportError

Input = Tensor | dict[str, Tensor]
"""One kind of input: a tensor, or a dict of tensors that share their leading example dimension."""


def map_input(function: Callable[[Tensor], Tensor], x: Input) -> Input:
    """Applies `function` to the tensor `x`, or to every tensor of the dict `x`."""
    if isinstance(x, dict):
        return {name: function(value) for name, value in x.items()}
    return function(x)


def cat_inputs(parts: Sequence[Input], dim: int = 0) -> Input:
    """Inputs of one kind behind each other."""
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts], dim=dim) for name in parts[0]}  # type: ignore[index]
    return torch.cat(list(parts), dim=dim)  # type: ignore[arg-type]


def stack_inputs(parts: Sequence[Input]) -> Input:
    """Inputs of one kind and shape along a new leading dimension."""
    if isinstance(parts[0], dict):
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}  # type: ignore[index]
    return torch.stack(list(parts))  # type: ignore[arg-type]


def first_tensor(x: Input) -> Tensor:
    """The tensor itself, or a dict's first one: what tells the number of examples and the device."""
    return next(iter(x.values())) if isinstance(x, dict) else x


@dataclass(frozen=True)
class Unlabeled:
    """Examples of one task without labels, or of many tasks with a leading dimension.

    They may belong to the task's classes or to others (distractors): nothing here says which.

    Attributes:
        x: inputs, `[..., n, *shape]`, or a dict of such tensors; of the same kind as the labelled ones.
        mask: bool `[..., n]`, true where an example is real rather than padding.
        padded: false promises that `mask` is all true.
    """

    x: Input
    mask: Tensor
    padded: bool = True

    @property
    def size(self) -> int:
        """The number of example slots of a task, padding included."""
        return self.mask.shape[-1]

    def map(self, function: Callable[[Tensor], Tensor]) -> Unlabeled:
        """Applies `function` to every tensor."""
        return Unlabeled(map_input(function, self.x), function(self.mask), self.padded)

    @classmethod
    def of(cls, x: Input) -> Unlabeled:
        """One task's unlabelled examples `[n, *shape]` without padding."""
        tensor = first_tensor(x)
        return cls(x, torch.ones(tensor.shape[0], dtype=torch.bool, device=tensor.device), padded=False)


@dataclass(frozen=True)
class Examples:
    """A labelled set of examples of one task, or of many tasks with a leading dimension.

    Attributes:
        x: inputs, `[..., n, *shape]`, or a dict of such tensors.
        y: labels, int64 `[..., n]` in `[0, way)`; for regression float `[..., n, d]`. Zero where masked.
        mask: bool `[..., n]`, true where an example is real rather than padding.
        classes: bool `[..., way]`, true where the task has that class; `way` is its shape. Regression: `[..., 0]`.
        padded: false promises that `mask` and `classes` are all true, which saves the work of masking; known to the
            compiler.
        unlabeled: unlabelled examples that come with a support set; None where there are none, and in a query set.
    """

    x: Input
    y: Tensor
    mask: Tensor
    classes: Tensor
    padded: bool = True
    unlabeled: Unlabeled | None = None

    @property
    def way(self) -> int:
        """The largest number of classes that a task of this shape can have (0 for regression)."""
        return self.classes.shape[-1]

    @property
    def size(self) -> int:
        """The number of example slots of a task, padding included."""
        return self.mask.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.mask.device

    def widen(self, way: int | None) -> Examples:
        """The same examples with room for `way` classes, those beyond their own masked."""
        extra = 0 if way is None or self.way == 0 else way - self.way
        return self if extra <= 0 else replace(self, classes=F.pad(self.classes, (0, extra), value=False), padded=True)

    def replace_x(self, x: Input, unlabeled: Input | None = None) -> Examples:
        """The same labels and masks over other inputs (features in place of raw inputs, say).

        Args:
            x: the inputs.
            unlabeled: those of the unlabelled examples, which are left out where none are given: raw inputs do not
                belong beside features.
        """
        others = None if self.unlabeled is None or unlabeled is None else replace(self.unlabeled, x=unlabeled)
        return Examples(x, self.y, self.mask, self.classes, self.padded, others)

    def map(self, function: Callable[[Tensor], Tensor]) -> Examples:
        """Applies `function` to every tensor."""
        return Examples(
            map_input(function, self.x),
            function(self.y),
            function(self.mask),
            function(self.classes),
            self.padded,
            None if self.unlabeled is None else self.unlabeled.map(function),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Examples:
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))

    def __getitem__(self, index: int | slice) -> Examples:
        """Indexes the leading (task) dimension."""
        return self.map(lambda t: t[index])

    @classmethod
    def of(cls, x: Input, y: Tensor, way: int | None = None) -> Examples:
        """One task's examples without padding.

        Args:
            x: inputs `[n, *shape]`.
            y: int64 labels `[n]`, or float targets `[n, d]` or `[n]` for regression.
            way: number of classes; by default the largest label + 1.

        Raises:
            SupportError: lengths differ, or a label is outside `[0, way)`.
        """
        n = first_tensor(x).shape[0]
        if y.shape[0] != n:
            raise SupportError(f"expected one label for each of the {n} examples, got {y.shape[0]} labels")
        mask = torch.ones(n, dtype=torch.bool, device=y.device)
        if y.is_floating_point():
            return cls(x, y if y.ndim > 1 else y[:, None], mask, mask.new_zeros(0), padded=False)
        y = y.long()
        largest = int(y.max()) + 1 if n else 0
        way = largest if way is None else way
        if n and (largest > way or int(y.min()) < 0):
            raise SupportError(f"expected labels in 0..{way - 1}, got {int(y.min())}..{int(y.max())}")
        classes = torch.zeros(way, dtype=torch.bool, device=y.device)
        classes[y] = True
        return cls(x, y, mask, classes, padded=not bool(classes.all()))


@dataclass(frozen=True)
class Episodes:
    """A meta-batch of `T` sampled tasks.

    Attributes:
        support: `Examples` with a leading dimension `T`: what a learner adapts to.
        query: `Examples` with a leading dimension `T`: what its predictions are judged on.
        class_ids: int64 `[T, way]`, the global id of each class, -1 where the task has no such class. For baselines.
        support_ids, query_ids, unlabeled_ids: int64 `[T, n]`, which example of the pool each one is (-1: padding), so
            that features can be computed once for each example; None where examples have no identity.
    """

    support: Examples
    query: Examples
    class_ids: Tensor
    support_ids: Tensor | None = None
    query_ids: Tensor | None = None
    unlabeled_ids: Tensor | None = None

    def __len__(self) -> int:
        return self.support.mask.shape[0]

    @property
    def way(self) -> int:
        return self.support.way

    @property
    def device(self) -> torch.device:
        return self.support.device

    def map(self, function: Callable[[Tensor], Tensor]) -> Episodes:
        """Applies `function` to every tensor."""
        return Episodes(
            self.support.map(function),
            self.query.map(function),
            function(self.class_ids),
            None if self.support_ids is None else function(self.support_ids),
            None if self.query_ids is None else function(self.query_ids),
            None if self.unlabeled_ids is None else function(self.unlabeled_ids),
        )

    def without_unlabeled(self) -> Episodes:
        """The same tasks without their unlabelled examples."""
        if self.support.unlabeled is None:
            return self
        return replace(self, support=replace(self.support, unlabeled=None), unlabeled_ids=None)

    def without_ids(self) -> Episodes:
        """The same tasks of examples without identity: what a change of their inputs makes of them."""
        return replace(self, support_ids=None, query_ids=None, unlabeled_ids=None)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Episodes:
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))

    def __getitem__(self, index: int | slice) -> Episodes:
        """A task (without its leading dimension) or a slice of tasks."""
        return self.map(lambda t: t[index])

    def __iter__(self) -> Iterator[Episodes]:
        return (self[t] for t in range(len(self)))

    def widen(self, way: int | None) -> Episodes:
        """The same tasks with room for `way` classes, those beyond their own masked: what a larger fixed head takes."""
        extra = 0 if way is None or self.way == 0 else way - self.way
        if extra <= 0:
            return self
        class_ids = F.pad(self.class_ids, (0, extra), value=-1)
        return replace(self, support=self.support.widen(way), query=self.query.widen(way), class_ids=class_ids)

    def chunks(self, size: int | None) -> Iterator[Episodes]:
        """Splits the meta-batch into slices of at most `size` tasks (None: all of them at once)."""
        if size is None or size >= len(self):
            yield self
        else:
            for first in range(0, len(self), size):
                yield self[first : first + size]


def concatenate(batches: list[Episodes]) -> Episodes:
    """Joins meta-batches of one shape along the task dimension."""
    joined: Episodes = pytree.tree_map(lambda *parts: torch.cat(parts), *batches)
    return joined


def _register(cls: type, tensors: list[str], constants: list[str]) -> None:
    def flatten(node: Any) -> tuple[list[Any], Any]:
        # None is no leaf: vmap and tree_map should not meet it.
        present = tuple(name for name in tensors if getattr(node, name) is not None)
        return [getattr(node, name) for name in present], (present, tuple((c, getattr(node, c)) for c in constants))

    def unflatten(children: Any, context: Any) -> Any:
        present, values = context
        return cls(**dict(zip(present, children, strict=True)), **dict(values))

    pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=f"kshot.{cls.__name__}")


_register(Unlabeled, ["x", "mask"], ["padded"])
_register(Examples, ["x", "y", "mask", "classes", "unlabeled"], ["padded"])
_register(Episodes, ["support", "query", "class_ids", "support_ids", "query_ids", "unlabeled_ids"], [])
