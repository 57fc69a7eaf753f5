"""The public surface: what `import kshot` offers, and what it does not cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kshot

LEARNERS = [
    "ALFA",
    "ANIL",
    "ANP",
    "BaselinePlusPlus",
    "CNAPs",
    "CNP",
    "FineTuning",
    "IMAML",
    "InContextTransformer",
    "JointTraining",
    "LSTMLearner",
    "LinearProbe",
    "MAML",
    "MANN",
    "MatchingNet",
    "MetaCurvature",
    "MetaLSTM",
    "MetaSGD",
    "NTM",
    "NearestCentroid",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "RidgeNet",
    "SNAIL",
    "SiameseNet",
    "SimpleShot",
    "SoftKMeansProtoNet",
    "TransductiveProtoNet",
]

PUBLIC = {
    *LEARNERS,
    "AdaptedModel",
    "Episodes",
    "Examples",
    "FewShotClassifier",
    "FewShotRegressor",
    "KshotError",
    "Learner",
    "Trainer",
    "adapt",
    "class_means",
    "datasets",
    "evaluate",
    "models",
    "squared_distance",
    "tasks",
    "testing",
}

HEAVY = ("PIL", "matplotlib", "mlflow", "pandas", "pydantic", "rich", "scipy", "sklearn", "typer", "wandb")


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has imported after running the code."""
    ending = "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_exported_names() -> None:
    """A name added to or taken from the public surface is a decision: change this list and the changelog with it."""
    assert set(kshot.__all__) == PUBLIC


def test_every_learner_is_exported() -> None:
    from kshot.learners import all_learners

    assert sorted(cls.__name__ for cls in all_learners().values()) == sorted(LEARNERS)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_an_exported_name_can_be_imported(name: str) -> None:
    assert getattr(kshot, name) is getattr(kshot, name)
    assert name in dir(kshot)


def test_star_import() -> None:
    namespace: dict[str, object] = {}
    exec("from kshot import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC


def test_a_wrong_name() -> None:
    with pytest.raises(AttributeError, match="module 'kshot' has no attribute 'MALM'. Did you mean 'MAML'"):
        kshot.MALM  # noqa: B018


def test_a_public_class_says_where_it_is() -> None:
    """Classes keep the module that defines them: saved configurations and tracebacks name it."""
    assert kshot.MAML.__module__ == "kshot.learners.maml"
    assert kshot.Examples.__module__ == "kshot.episodes"


@pytest.mark.parametrize(
    "code",
    [
        "import kshot",
        "import kshot; kshot.tasks, kshot.datasets, kshot.models, kshot.MAML, kshot.adapt",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    """Beyond what torch itself imports."""
    assert modules_after(code) & set(HEAVY) <= modules_after("import torch")


def test_the_types_are_shipped() -> None:
    from importlib import resources

    assert resources.files("kshot").joinpath("py.typed").is_file()


def test_the_version_is_the_installed_one() -> None:
    from importlib import metadata

    assert kshot.__version__ == metadata.version("kshot")
