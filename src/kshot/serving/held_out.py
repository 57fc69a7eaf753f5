"""How well a task's own examples are told apart when each is left out: accuracy, and labels that look wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kshot import engine
from kshot.episodes import Examples, map_input
from kshot.functional import mask_logits
from kshot.learners.base import Learner
from kshot.metrics import proportion

PARTS = 50
"""A larger support set is left out in so many parts, not one example at a time."""


ODDS = 3.0
"""Another class is so many times as probable as an example's own: on letters of scripts that the shipped learner never
saw (5-way 5-shot, one label of 25 wrong) this finds all of the wrong ones, and suspects one right one in a hundred."""


@dataclass(frozen=True)
class HeldOut:
    """What a task adapted without some of its examples says of them.

    Attributes:
        rows: of the support set, those that could be left out: of classes with another example. `[m]`.
        probabilities: of each class, `[m, way]`.
        targets: the label of each, `[m]`.
    """

    rows: Tensor
    probabilities: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def accuracy(self) -> dict[str, Any] | None:
        """The share that was right, with its 95% interval; None where nothing could be left out."""
        if not len(self):
            return None
        right = int((self.probabilities.argmax(-1) == self.targets).sum())
        low, high = proportion(right, len(self))
        return {"accuracy": right / len(self), "low": low, "high": high, "examples": len(self)}

    def suspects(self, odds: float = ODDS) -> list[tuple[int, int, float]]:
        """Examples whose label looks wrong: another class is `odds` times as probable. Row, that class, and its
        probability; the most suspicious first."""
        if not len(self):
            return []
        best, other = self.probabilities.max(-1)
        own = self.probabilities.gather(-1, self.targets.unsqueeze(-1)).squeeze(-1)
        found = ((other != self.targets) & (best >= odds * own)).nonzero().squeeze(-1)
        order = found[(best - own)[found].argsort(descending=True)]
        return [(int(self.rows[i]), int(other[i]), float(best[i])) for i in order]


def findings(found: HeldOut, numbers: Sequence[int], labels: Sequence[str]) -> dict[str, Any]:
    """What is said of a version: its accuracy, and the examples whose label looks wrong."""
    return {
        "leave_one_out": found.accuracy(),
        "suspects": [
            {"example": numbers[row], "instead": labels[other], "probability": round(probability, 4)}
            for row, other, probability in found.suspects()
        ],
    }


def held_out(
    learner: Learner, support: Examples, temperature: float = 1.0, options: Mapping[str, Any] | None = None
) -> HeldOut:
    """Adapts to a support set (of features) without each of its examples, and predicts these.

    Up to `PARTS` examples are left out one by one; of more, every `PARTS`-th together, class by class.

    Args:
        temperature: that logits are divided by.
        options: of `learner.adapt`.
    """
    target, mask = support.y, support.mask
    count = torch.zeros(support.way, dtype=torch.int64).index_add_(0, target[mask], torch.ones_like(target[mask]))
    rows = (mask & (count[target] > 1)).nonzero().squeeze(-1)
    rows = rows[target[rows].argsort(stable=True)]  # neighbours are of one class, and fall into different parts
    if not len(rows):
        return HeldOut(rows, torch.zeros(0, support.way), target[rows])
    parts = min(PARTS, len(rows))
    part = torch.arange(len(rows)) % parts
    without = mask.repeat(parts, 1)
    without[part, rows] = False
    supports = Examples(
        map_input(lambda t: t.expand(parts, *t.shape), support.x),
        target.expand(parts, -1),
        without,
        support.classes.expand(parts, -1),
        padded=True,
    )
    longest = -(-len(rows) // parts)
    asked = torch.zeros(parts, longest, dtype=torch.int64)
    place = torch.arange(len(rows)) // parts
    asked[part, place] = rows
    x = map_input(lambda t: t[asked], support.x)
    logits = engine.adapt_and_predict(learner, supports, x, **(options or {}))[part, place]
    return HeldOut(rows, (mask_logits(logits, support.classes) / temperature).softmax(-1), target[rows])
