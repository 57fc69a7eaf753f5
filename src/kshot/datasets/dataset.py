"""`Dataset`: three disjoint pools, the transform that made them, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kshot.datasets.pool import Pool
from kshot.datasets.splits import check_disjoint
from kshot.datasets.transform import Transform
from kshot.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled data, its classes dealt out to three splits.

    Attributes:
        name: what it is called, in reports.
        train, val, test: the pools; one may be empty (a dataset that only serves for evaluation).
        transform: how its examples were read, and how they are normalised.
        info: description, licence, source, citation, `splits` (classes and examples of each), and `bad_files`, the
            names of files that were left out.
        spec: JSON-able arguments: `datasets.load(**spec)` loads it again.

    Raises:
        OverlappingSplitsError: two of the splits share a class.
    """

    name: str
    train: Pool
    val: Pool
    test: Pool
    transform: Transform
    info: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_disjoint(self.splits)
        if not any(len(pool) for pool in self.splits.values()):
            raise DataError(f"{self.name} has no classes: expected at least one split that holds some")
        self.info.setdefault(
            "splits",
            {name: {"classes": len(pool), "examples": pool.examples} for name, pool in self.splits.items()},
        )
        self.info.setdefault("bad_files", [])

    @property
    def splits(self) -> dict[str, Pool]:
        """The pools by name."""
        return {"train": self.train, "val": self.val, "test": self.test}
