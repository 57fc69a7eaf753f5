"""`TaskSource`: a distribution of tasks with disjoint `train`, `val` and `test` splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kshot.datasets.splits import check_disjoint
from kshot.datasets.transform import Transform
from kshot.errors import ConfigError, OverlappingSplitsError, TooFewClassesError
from kshot.tasks.split import Kind, TaskSplit


class TaskSource:
    """Three splits of tasks that share no class, and what turns a raw example into an input.

    Attributes:
        name: what it is called, in reports.
        kind: "classification", "regression" or "sequence".
        train, val, test: the splits. One without classes raises TooFewClassesError when asked for.
        transform: makes inputs of raw examples; None for generated functions.
        example_shape: the shape of one input.
        spec: JSON-able arguments: `kshot.tasks.load(**spec)` makes it again.
        info: where its data comes from: description, licence, source, citation.

    Args:
        name: see above.
        splits: some of "train", "val" and "test" by name. They are copied, each copy knowing its source.
        transform, example_shape, spec, info: see above.

    Raises:
        OverlappingSplitsError: two splits share a class, or, of tasks that are generated, a stream.
        ConfigError: a split by another name, none at all, or of different kinds.
    """

    def __init__(
        self,
        name: str,
        splits: Mapping[str, TaskSplit],
        *,
        example_shape: tuple[int, ...],
        transform: Transform | None = None,
        spec: dict[str, Any] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        kinds = {split.kind for split in splits.values()}
        if not splits or set(splits) - {"train", "val", "test"} or len(kinds) > 1:
            raise ConfigError(
                "expected splits named train, val or test, all of one kind; "
                f"got {', '.join(f'{key} ({split.kind})' for key, split in splits.items()) or 'none'}"
            )
        check_disjoint({key: split.pool for key, split in splits.items() if split.pool is not None})
        streams = [split.name for split in splits.values()]
        if "classification" not in kinds and len(set(streams)) < len(streams):
            raise OverlappingSplitsError(
                "expected every split of generated tasks to draw from a stream of its own, "
                f"got the names {', '.join(streams)}: give each another name"
            )
        self.name = name
        self.kind: Kind = kinds.pop()
        self.transform = transform
        self.example_shape = tuple(example_shape)
        self.spec = dict(spec or {})
        self.info = dict(info or {})
        self.splits: dict[str, TaskSplit] = {key: split._bound_to(self) for key, split in splits.items()}

    @property
    def train(self) -> TaskSplit:
        return self._split("train")

    @property
    def val(self) -> TaskSplit:
        return self._split("val")

    @property
    def test(self) -> TaskSplit:
        return self._split("test")

    def _split(self, name: str) -> TaskSplit:
        if name not in self.splits:
            only = (
                "they are for evaluating: kshot evaluate RUN --data" if list(self.splits) == ["test"] else "use others"
            )
            raise TooFewClassesError(
                f"{self.name} has no {name} classes, only {' and '.join(self.splits)} classes: {only}; or load data "
                f"that has {name} classes"
            )
        return self.splits[name]

    def __repr__(self) -> str:
        lines = [f"<TaskSource {self.name} ({self.kind}), examples {list(self.example_shape)}"]
        lines += [f"  {split!r}" for split in self.splits.values()]
        return "\n".join(lines) + ">"
