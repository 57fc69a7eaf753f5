"""Algorithms with a name of their own that are options of another learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kshot.errors import ConfigError

VARIANTS: dict[str, dict[str, Any]] = {
    "FOMAML": {"name": "maml", "order": 1},
    "MAML++": {"name": "maml", "learned_rates": True, "step_norms": "auto"},
    "HeadTuning": {"name": "finetuning", "layers": "head"},
}
"""What each name stands for. MAML++ without its two schedules, which count outer steps: how many is not known here."""

_SWITCHES = ("learned_rates", "step_norms")
"""What may be said otherwise: MAML++ is MAML with some of them."""


def expand(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The learner that a name stands for, and its options.

    Args:
        name: of a learner, or of a variant, however it is spelt.
        options: constructor arguments that were asked for beside it.

    Raises:
        ConfigError: one of them would make another algorithm of it.

    >>> expand("fomaml", {"inner_lr": 0.1})
    ('maml', {'order': 1, 'inner_lr': 0.1})
    """
    title = next((title for title in VARIANTS if title.lower() == name.lower()), None)
    if title is None:
        return name, dict(options)
    own = {key: value for key, value in VARIANTS[title].items() if key != "name"}
    learner = VARIANTS[title]["name"]
    for key in own.keys() & options.keys() - {*_SWITCHES}:
        if options[key] != own[key]:
            raise ConfigError(
                f"{title} is {learner} with {key}={own[key]}, got {key}={options[key]}: leave it out, or name {learner}"
            )
    return learner, {**own, **options}
