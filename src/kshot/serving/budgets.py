"""What fits into a latency budget: which of the served models, and how many of its inner steps.

What an adaptation takes grows with its examples, and with its steps where there are any:
`base + examples * (each + steps * step)`. It is measured once on this machine when the server starts, and corrected by
what adaptations took since.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kshot.serving.adapting import Order, adapt_together
from kshot.serving.problems import BudgetError
from kshot.serving.served import ServedModel

MEMORY = 0.9
"""How much of the correction that was known stays when another adaptation is seen."""


@dataclass
class Pace:
    """How long one model takes.

    Attributes:
        base: seconds of any adaptation.
        each: seconds more for each example.
        step: seconds more for each example in each step.
        factor: by which adaptations took longer than that of late.
    """

    base: float
    each: float
    step: float = 0.0
    factor: float = 1.0

    @classmethod
    def measure(cls, model: ServedModel) -> Pace:
        """Adapts to random examples, few and many, with few steps and all."""
        learner = model.learner
        way = learner.way or 5
        few, many = way, min(5 * way, learner.max_support or 5 * way)
        low = {} if model.steps is None else {"steps": 1}
        short = _seconds(model, few, way, low)
        long = _seconds(model, many, way, low) if many > few else short
        each = max(0.0, long - short) / max(1, many - few)
        step = 0.0
        if model.steps is not None and model.steps > 1:
            all_ = _seconds(model, many, way, {"steps": model.steps})
            step = max(0.0, all_ - long) / ((model.steps - 1) * many)
            each = max(0.0, each - step)
        return cls(max(0.0, short - few * (each + (step if low else 0.0))), each, step)

    def expect(self, examples: int, steps: int | None) -> float:
        """Seconds."""
        return self.factor * (self.base + examples * (self.each + (steps or 0) * self.step))

    def steps_within(self, seconds: float, examples: int) -> float:
        """How many steps fit; any number where they cost nothing."""
        left = seconds / self.factor - self.base - examples * self.each
        return min(1e6, left / (examples * self.step)) if self.step else 1e6

    def observe(self, examples: int, steps: int | None, seconds: float) -> None:
        """An adaptation took so long."""
        plain = self.expect(examples, steps) / self.factor
        if plain > 0:
            self.factor = MEMORY * self.factor + (1 - MEMORY) * min(10.0, max(0.1, seconds / plain))

    def forget(self) -> None:
        """An adaptation was refused, and will say nothing of how long it took: what slowed others down may be over."""
        self.factor = MEMORY * self.factor + (1 - MEMORY) * min(1.0, self.factor)


def _seconds(model: ServedModel, examples: int, way: int, options: Mapping[str, Any]) -> float:
    shape = model.learner.input_shape
    if shape is None:
        return 0.0
    x = torch.rand(examples, *shape, generator=torch.Generator().manual_seed(0))
    order = Order(model, x, torch.arange(examples) % way, way, options=dict(options), check=model.cheap)
    taken = []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        [found] = adapt_together([order])
        if isinstance(found, Exception):
            return 0.0
        taken.append(time.perf_counter() - began)
    return min(taken)


@dataclass(frozen=True)
class Choice:
    """What is to adapt, and how.

    Attributes:
        model: of those that are served.
        options: of its `adapt`.
        expected: seconds, waiting included; None where no budget was given.
    """

    model: ServedModel
    options: dict[str, Any]
    expected: float | None = None

    def document(self, budget: float) -> dict[str, Any]:
        """What the answer says of it.

        Args:
            budget: milliseconds.
        """
        steps = self.options.get("steps", self.model.steps)
        said = {"model": self.model.name, "latency_ms": budget, "expected_ms": round(1000 * (self.expected or 0.0), 3)}
        return said if steps is None else {**said, "steps": steps}


def choose(
    models: Iterable[ServedModel],
    paces: Mapping[str, Pace],
    seconds: float,
    wait: float,
    examples: int,
    way: int,
    steps: int | None = None,
    most: int = 1_000_000,
) -> Choice:
    """Of the models that can do a task the most accurate one that fits with all its steps, as measured on val tasks of
    about as many examples a class; where none does, the one that fits with the largest part of its steps.

    Args:
        models: in the order in which ties are settled.
        paces: by model.
        seconds: the budget.
        wait: of it are gone until what waits already is done.
        examples, way: of the task.
        steps: as many as were asked for, and no fewer.
        most: steps of any adaptation.

    Raises:
        BudgetError: none fits.
    """
    fitting: list[tuple[float, float, int, Choice]] = []
    least: tuple[float, str] | None = None
    for place, model in enumerate(models):
        pace, limits = paces[model.digest], model.learner
        if (limits.way is not None and way > limits.way) or examples > (limits.max_support or examples):
            continue
        full = model.steps if steps is None else steps
        full = None if full is None else min(full, most)
        fewest = None if full is None else min(full, 1) if steps is None else steps
        need = wait + pace.expect(examples, fewest)
        what = model.name if fewest is None else f"{model.name} with {fewest} step{'' if fewest == 1 else 's'}"
        least = min(least or (need, what), (need, what))
        if need > seconds:
            if wait + (need - wait) / pace.factor <= seconds:
                pace.forget()
            continue
        taken = None if full is None else max(fewest or 0, min(full, int(pace.steps_within(seconds - wait, examples))))
        whole = 1.0 if taken == full else (taken or 0) / max(1, full or 1)
        accuracy = model.calibrated(examples / max(1, way)).get("accuracy", 0.0) if whole == 1.0 else 0.0
        options = {} if taken is None or taken == model.steps else {"steps": taken}
        fitting.append((whole, accuracy, -place, Choice(model, options, wait + pace.expect(examples, taken))))
    if fitting:
        return max(fitting, key=lambda one: one[:3])[3]
    if least is None:
        raise BudgetError(f"none of the models that are served takes {examples} examples of {way} classes")
    raise BudgetError(
        f"expected a budget of at least about {1000 * least[0]:.1f} ms for {examples} examples, which is what "
        f"{least[1]} takes here now, got {1000 * seconds:g} ms"
    )
