"""One file an algorithm; `base` is the protocol. `all_learners` finds every one of them."""

from __future__ import annotations

import importlib
import pkgutil

from kshot.learners.adapted import AdaptedModel, adapt
from kshot.learners.alfa import ALFA
from kshot.learners.anil import ANIL
from kshot.learners.anp import ANP
from kshot.learners.base import Learner
from kshot.learners.baselineplusplus import BaselinePlusPlus
from kshot.learners.cnaps import CNAPs
from kshot.learners.cnp import CNP
from kshot.learners.finetuning import FineTuning
from kshot.learners.imaml import IMAML
from kshot.learners.incontext import InContextTransformer
from kshot.learners.joint import JointTraining
from kshot.learners.linear_probe import LinearProbe
from kshot.learners.lstm import LSTMLearner
from kshot.learners.maml import MAML
from kshot.learners.mann import MANN
from kshot.learners.matching import MatchingNet
from kshot.learners.metacurvature import MetaCurvature
from kshot.learners.metalstm import MetaLSTM
from kshot.learners.metasgd import MetaSGD
from kshot.learners.nearest_centroid import NearestCentroid
from kshot.learners.ntm import NTM
from kshot.learners.protonet import ProtoNet
from kshot.learners.relation import RelationNet
from kshot.learners.reptile import Reptile
from kshot.learners.ridge import RidgeNet
from kshot.learners.siamese import SiameseNet
from kshot.learners.simpleshot import SimpleShot
from kshot.learners.snail import SNAIL
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
    "ALFA",
    "ANIL",
    "ANP",
    "CNP",
    "IMAML",
    "MAML",
    "MANN",
    "NTM",
    "SNAIL",
    "AdaptedModel",
    "BaselinePlusPlus",
    "CNAPs",
    "FineTuning",
    "InContextTransformer",
    "JointTraining",
    "LSTMLearner",
    "Learner",
    "LinearProbe",
    "MatchingNet",
    "MetaCurvature",
    "MetaLSTM",
    "MetaSGD",
    "NearestCentroid",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "RidgeNet",
    "SiameseNet",
    "SimpleShot",
    "SoftKMeansProtoNet",
    "TransductiveProtoNet",
    "adapt",
    "all_learners",
]
