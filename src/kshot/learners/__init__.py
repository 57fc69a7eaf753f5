"""One file an algorithm; `base` is the protocol. `all_learners` finds every one of them."""

from __future__ import annotations

import importlib
import pkgutil

from kshot.learners.adapted import AdaptedModel, adapt
from kshot.learners.anil import ANIL
from kshot.learners.base import Learner
from kshot.learners.imaml import IMAML
from kshot.learners.maml import MAML
from kshot.learners.matching import MatchingNet
from kshot.learners.metacurvature import MetaCurvature
from kshot.learners.metasgd import MetaSGD
from kshot.learners.protonet import ProtoNet
from kshot.learners.relation import RelationNet
from kshot.learners.reptile import Reptile
from kshot.learners.ridge import RidgeNet
from kshot.learners.siamese import SiameseNet
from kshot.learners.soft_kmeans import SoftKMeansProtoNet
from kshot.learners.transductive import TransductiveProtoNet


def all_learners() -> dict[str, type[Learner]]:
    """Every learner class of kshot's own, by its lower-case name, found by importing each file of this package."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found: dict[str, type[Learner]] = {}
    queue = list(Learner.__subclasses__())
    while queue:
        cls = queue.pop()
        queue += cls.__subclasses__()
        if cls.__module__.startswith(f"{__name__}.") and not cls.__dict__.get("abstract", False):
            found[cls.__name__.lower()] = cls
    return dict(sorted(found.items()))


__all__ = [
    "ANIL",
    "IMAML",
    "MAML",
    "AdaptedModel",
    "Learner",
    "MatchingNet",
    "MetaCurvature",
    "MetaSGD",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "RidgeNet",
    "SiameseNet",
    "SoftKMeansProtoNet",
    "TransductiveProtoNet",
    "adapt",
    "all_learners",
]
