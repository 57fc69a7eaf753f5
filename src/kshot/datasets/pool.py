"""`Pool`: the labelled examples of one split in memory, rows grouped by class, ready for a vectorised sampler."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kshot.errors import DataError


@dataclass(frozen=True, eq=False)
class Pool:
    """The examples of a split's classes.

    A class is a run of rows, seen through a quarter turn: class `c` owns the rows `start[c] : start[c] + count[c]` of
    `x`, each rotated by `turns[c] * 90` degrees counter-clockwise. So Omniglot's rotations as classes cost no memory,
    and the pools of several splits share one `x`.

    Attributes:
        x: uint8 images `[N, C, H, W]`, or float32 features `[N, d]`.
        start: int64 `[classes]`, the first row of each class.
        count: int64 `[classes]`, how many rows it has.
        turns: int64 `[classes]` in 0..3, quarter turns counter-clockwise.
        kin: int64 `[classes]`; two classes of one kin never share an episode (rotations of one character, say). Kin are
            comparable among pools that share `x`.
        names: the name of each class.
        random_turns: true where the sampler turns each class of an episode by a random multiple of 90 degrees.

    Raises:
        DataError: the arrays disagree in length or type, or a class reaches outside `x`.
    """

    x: Tensor
    start: Tensor
    count: Tensor
    turns: Tensor
    kin: Tensor
    names: tuple[str, ...]
    random_turns: bool = False

    def __post_init__(self) -> None:
        if self.x.dtype == torch.uint8:
            if self.x.ndim != 4:
                raise DataError(f"expected uint8 images of shape [N, C, H, W], got {list(self.x.shape)}")
        elif self.x.dtype != torch.float32 or self.x.ndim != 2:
            raise DataError(
                "expected x to be uint8 images [N, C, H, W] or float32 features [N, d], "
                f"got {str(self.x.dtype).removeprefix('torch.')} {list(self.x.shape)}"
            )
        n = len(self.names)
        for field in ("start", "count", "turns", "kin"):
            value: Any = torch.as_tensor(getattr(self, field), dtype=torch.int64)
            if value.shape != (n,):
                raise DataError(f"expected {field} of shape [{n}], one for each class name, got {list(value.shape)}")
            object.__setattr__(self, field, value)
        if n and (int(self.start.min()) < 0 or int(self.count.min()) < 0):
            raise DataError("expected start and count of every class to be at least 0")
        if n and int((self.start + self.count).max()) > self.x.shape[0]:
            raise DataError(
                f"a class ends at row {int((self.start + self.count).max())}, but there are {self.x.shape[0]} rows"
            )
        if n and not bool(((self.turns >= 0) & (self.turns < 4)).all()):
            raise DataError("expected turns in 0..3 (quarter turns)")
        square = self.x.ndim == 4 and self.x.shape[-1] == self.x.shape[-2]
        if not square and n and (self.random_turns or bool(self.turns.any())):
            raise DataError(f"only square images can be turned, got x of shape {list(self.x.shape)}")

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def is_image(self) -> bool:
        """Whether the examples are images rather than feature vectors."""
        return self.x.ndim == 4

    @property
    def examples(self) -> int:
        """The number of examples over all classes (a row counts once for each class that shows it)."""
        return int(self.count.sum())

    def rows(self, c: int) -> Tensor:
        """The rows of `x` that class `c` owns, int64 `[count[c]]`; the quarter turn is not applied."""
        return torch.arange(int(self.start[c]), int(self.start[c] + self.count[c]))

    def images(self, c: int) -> Tensor:
        """The examples of class `c` as they are seen, its quarter turn applied: `[count[c], *shape]`."""
        x = self.x[int(self.start[c]) : int(self.start[c] + self.count[c])]
        return torch.rot90(x, int(self.turns[c]), (-2, -1)) if self.is_image else x

    def select(self, classes: Tensor | Sequence[int] | Sequence[bool]) -> Pool:
        """The pool of some of the classes, in the given order; `x` is shared, not copied.

        Args:
            classes: indices, or a boolean mask of one entry a class.
        """
        index = torch.as_tensor(classes)
        if index.dtype == torch.bool:
            if index.shape != (len(self),):
                raise DataError(f"expected a mask of shape [{len(self)}], got {list(index.shape)}")
            index = index.nonzero()[:, 0]
        index = index.to(torch.int64).reshape(-1)
        if len(index) and not bool(((index >= 0) & (index < len(self))).all()):
            raise DataError(f"expected class indices in 0..{len(self) - 1}, got {int(index.min())}..{int(index.max())}")
        return replace(
            self,
            start=self.start[index],
            count=self.count[index],
            turns=self.turns[index],
            kin=self.kin[index],
            names=tuple(self.names[i] for i in index.tolist()),
        )

    def example_hashes(self) -> Tensor:
        """A hash of each row's content, int64 `[N]` (blake2b, 8 bytes): equal content, equal hash.

        Over all rows of `x`, those of other splits' classes included; index it with `rows`.
        """
        rows = self.x.contiguous().numpy()
        digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
        return torch.frombuffer(bytearray(digests), dtype=torch.int64) if digests else torch.zeros(0, dtype=torch.int64)

    @classmethod
    def from_arrays(cls, x: Any, labels: Any, names: Sequence[str] | None = None) -> Pool:
        """A pool of arrays in any order.

        Args:
            x: uint8 images `[N, C, H, W]`, or numbers `[N, d]` (made float32); a tensor or an array.
            labels: `[N]`: integers, strings or anything else that sorts.
            names: the class names, in the order of the sorted labels; by default the labels themselves.

        Raises:
            DataError: `x` and `labels` differ in length, or the number of names is not that of the labels.
        """
        rows = torch.as_tensor(x)
        if rows.ndim == 2:
            rows = rows.to(torch.float32)
        values: list[Hashable] = labels.tolist() if hasattr(labels, "tolist") else list(labels)
        if len(values) != rows.shape[0]:
            raise DataError(f"expected one label for each of the {rows.shape[0]} examples, got {len(values)} labels")
        known = sorted(set(values))  # type: ignore[type-var]
        if names is not None and len(names) != len(known):
            raise DataError(f"expected {len(known)} class names, one for each label, got {len(names)}")
        index = {label: c for c, label in enumerate(known)}
        y = torch.tensor([index[value] for value in values], dtype=torch.int64)
        return cls.from_sorted(
            rows[torch.argsort(y, stable=True)],
            torch.bincount(y, minlength=len(known)),
            [str(label) for label in known] if names is None else names,
        )

    @classmethod
    def from_sorted(cls, x: Tensor, count: Tensor | Sequence[int], names: Sequence[str]) -> Pool:
        """A pool of rows that are grouped by class already: `count[c]` rows of each class, one after another."""
        counts = torch.as_tensor(count, dtype=torch.int64)
        n = len(names)
        return cls(
            x=x,
            start=counts.cumsum(0) - counts,
            count=counts,
            turns=torch.zeros(n, dtype=torch.int64),
            kin=torch.arange(n),
            names=tuple(names),
        )
