"""One file an algorithm; `base` is the protocol. `all_learners` finds every one of them."""

from __future__ import annotations

import importlib
import pkgutil

from kshot.learners.adapted import AdaptedModel, adapt
from kshot.learners.anil import ANIL
from kshot.learners.base import Learner
from kshot.learners.maml import MAML
from kshot.learners.protonet import ProtoNet


def all_learners() -> dict[str, type[Learner]]:
    """Every learner class of kshot's own, by its lower-case name, found by importing each file of this package."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found: dict[str, type[Learner]] = {}
    queue = list(Learner.__subclasses__())
    while queue:
        cls = queue.pop()
        queue += cls.__subclasses__()
        if cls.__module__.startswith(f"{__name__}."):
            found[cls.__name__.lower()] = cls
    return dict(sorted(found.items()))


__all__ = ["ANIL", "MAML", "AdaptedModel", "Learner", "ProtoNet", "adapt", "all_learners"]
