"""kshot: learn from many tasks, adapt to a new one from a few examples, prove it.

This module is a lazy facade: a name is imported from its own module when it is first used, so that `import kshot` costs
next to nothing and a program pays only for the parts that it touches.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kshot import datasets, models, tasks, testing
    from kshot.episodes import Episodes, Examples
    from kshot.errors import KshotError
    from kshot.estimators import FewShotClassifier, FewShotRegressor
    from kshot.evaluation.evaluate import evaluate
    from kshot.functional import class_means, squared_distance
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
    from kshot.training import Trainer

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
    "Episodes",
    "Examples",
    "FewShotClassifier",
    "FewShotRegressor",
    "FineTuning",
    "InContextTransformer",
    "JointTraining",
    "KshotError",
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
    "Trainer",
    "TransductiveProtoNet",
    "adapt",
    "class_means",
    "datasets",
    "evaluate",
    "models",
    "squared_distance",
    "tasks",
    "testing",
]

_MODULES = frozenset({"datasets", "models", "tasks", "testing"})

_HOME = {
    "ANIL": "kshot.learners.anil",
    "MAML": "kshot.learners.maml",
    "MANN": "kshot.learners.mann",
    "AdaptedModel": "kshot.learners.adapted",
    "Episodes": "kshot.episodes",
    "Examples": "kshot.episodes",
    "FewShotClassifier": "kshot.estimators",
    "FewShotRegressor": "kshot.estimators",
    "KshotError": "kshot.errors",
    "Learner": "kshot.learners.base",
    "ProtoNet": "kshot.learners.protonet",
    "IMAML": "kshot.learners.imaml",
    "MatchingNet": "kshot.learners.matching",
    "MetaCurvature": "kshot.learners.metacurvature",
    "MetaSGD": "kshot.learners.metasgd",
    "NTM": "kshot.learners.ntm",
    "RelationNet": "kshot.learners.relation",
    "Reptile": "kshot.learners.reptile",
    "RidgeNet": "kshot.learners.ridge",
    "SiameseNet": "kshot.learners.siamese",
    "SoftKMeansProtoNet": "kshot.learners.soft_kmeans",
    "TransductiveProtoNet": "kshot.learners.transductive",
    "Trainer": "kshot.training",
    "adapt": "kshot.learners.adapted",
    "class_means": "kshot.functional",
    "evaluate": "kshot.evaluation",
    "squared_distance": "kshot.functional",
    "ALFA": "kshot.learners.alfa",
    "CNAPs": "kshot.learners.cnaps",
    "MetaLSTM": "kshot.learners.metalstm",
    "LSTMLearner": "kshot.learners.lstm",
    "SNAIL": "kshot.learners.snail",
    "InContextTransformer": "kshot.learners.incontext",
    "CNP": "kshot.learners.cnp",
    "ANP": "kshot.learners.anp",
    "SimpleShot": "kshot.learners.simpleshot",
    "NearestCentroid": "kshot.learners.nearest_centroid",
    "LinearProbe": "kshot.learners.linear_probe",
    "FineTuning": "kshot.learners.finetuning",
    "BaselinePlusPlus": "kshot.learners.baselineplusplus",
    "JointTraining": "kshot.learners.joint",
}
"""The module that defines each name."""


def __getattr__(name: str) -> object:
    """Imports a public name on first use (PEP 562) and keeps it."""
    if name in _MODULES:
        return import_module(f"kshot.{name}")
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, n=1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module 'kshot' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*__all__, *globals()])
