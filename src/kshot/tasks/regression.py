"""`FunctionTasks`: regression tasks drawn from a family of functions."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kshot import randomness
from kshot.episodes import Episodes, Examples
from kshot.errors import ConfigError, suggest
from kshot.tasks.functions import FAMILIES, Family, Keys, family_options
from kshot.tasks.options import whole_number
from kshot.tasks.split import TaskSplit
from kshot.tasks.transfer import sent

INPUT, FUNCTION, NOISE = (randomness.stream(f"tasks/functions/{name}") for name in ("input", "function", "noise"))

SPLIT_OPTIONS = ("shot", "query", "functions")


class FunctionTasks(TaskSplit):
    """Tasks that are functions of one variable, seen at `shot` points and asked for at `query` others.

    Args:
        family: what functions are drawn from.
        name: of the split. Splits draw their functions from streams of their own, so they have none in common.
        shot: support points a task.
        query: query points a task.
        functions: draw from that many fixed functions instead of endlessly many (for audits over the number of training
            tasks); the same ones for every seed.

    Episodes: x `[T, n, 1]` uniform in `family.x`, y `[T, n, 1]`, nothing masked; `classes`, `class_ids` are `[T, 0]`.

    Raises:
        ConfigError: a shot, query or functions that is no such number, or `functions` for a Gaussian process.
    """

    kind = "regression"
    way = 0
    pool = None

    def __init__(
        self, family: Family, name: str = "train", *, shot: int = 10, query: int = 10, functions: int | None = None
    ) -> None:
        super().__init__(name, {"shot": shot, "query": query, "functions": functions, **asdict(family)})
        self.family = family
        self.shot = self.support_size = whole_number("shot", shot)
        self.query = self.query_size = whole_number("query", query)
        self.functions = None if functions is None else whole_number("functions", functions)
        if functions is not None and not family.fixed:
            raise ConfigError(
                f"expected no functions={functions} for {type(family).__name__}, whose functions are drawn at the "
                "inputs of each task: leave it out, or use another family"
            )

    def replace(self, **options: Any) -> TaskSplit:
        check_family_options(type(self.family), options)
        own = {name: options.get(name, self.options[name]) for name in SPLIT_OPTIONS}
        family = replace(self.family, **{name: value for name, value in options.items() if name not in own})
        return FunctionTasks(family, self.name, **own)._bound_to(self._source)

    def _steps_at_once(self, meta_batch: int) -> int:
        # Some 128,000 points are drawn in the cache; by the step, numpy would spend its time being called.
        return min(256, max(1, 2**17 // (meta_batch * (self.shot + self.query))))

    def _draw(self, key: Keys, device: torch.device | str | None) -> Episodes:
        low, high = self.family.x
        point = np.arange(self.shot + self.query)
        x = low + (high - low) * randomness.uniform(key[:, None], INPUT, point)
        y = self.family.values(self._function_keys(key), x)
        if self.family.noise:
            y = y + self.family.noise * randomness.normal(key[:, None], NOISE, point)
        return Episodes(
            support=_examples(x[:, : self.shot], y[:, : self.shot], device),
            query=_examples(x[:, self.shot :], y[:, self.shot :], device),
            class_ids=torch.zeros(len(key), 0, dtype=torch.int64, device=device),
        )

    def _function_keys(self, key: Keys) -> Keys:
        if self.functions is None:
            return randomness.bits(key, FUNCTION)
        number = randomness.integers(self.functions, key, FUNCTION)
        return randomness.bits(FUNCTION, randomness.stream(self.name), number)


def make_family(name: str, options: dict[str, Any]) -> Family:
    """The family of that name (a key of `FAMILIES`) with these ranges.

    Raises:
        ConfigError: an unknown option, or a value that is no range.
    """
    check_family_options(FAMILIES[name], options)
    return FAMILIES[name](**options)


def check_family_options(family: type[Family], options: dict[str, Any]) -> None:
    """Raises ConfigError for an option that tasks of the family do not have, with the nearest that they do."""
    known = [*SPLIT_OPTIONS, *family_options(family)]
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {name!r} for tasks of {family.__name__}. {suggest(name, known)}")


def _examples(x: NDArray[np.float64], y: NDArray[np.float64], device: torch.device | str | None) -> Examples:
    inputs, targets = (sent(torch.from_numpy(a.astype(np.float32)).unsqueeze(-1), device) for a in (x, y))
    mask = torch.ones(x.shape, dtype=torch.bool, device=device)
    return Examples(inputs, targets, mask, mask.new_zeros(len(x), 0), padded=False)
