"""Every learner of images is evaluated beside the baselines, as `kshot train` would make it."""

from __future__ import annotations

import pytest

import kshot
from kshot.evaluation.baselines import BASELINES
from kshot.learners import all_learners
from kshot.randomness import seeded
from kshot.tasks.source import TaskSource
from kshot.training.config import build_learner, parse_config

SMALL = {
    "hidden": 16,
    "slots": 8,
    "filters": 8,
    "size": 16,
    "max_support": 3,
    "steps": 2,
    "inner_steps": 1,
    "cg_steps": 1,
}


def images() -> list[str]:
    """The learners that tell classes of examples apart."""
    return [name for name, cls in all_learners().items() if cls.outputs == "logits"]


@pytest.mark.parametrize("name", images())
def test_every_learner_stands_beside_the_baselines(name: str, places: TaskSource) -> None:
    takes = all_learners()[name].__init__.__annotations__
    config = parse_config(
        {
            "learner": {"name": name, **{key: value for key, value in SMALL.items() if key in takes}},
            "backbone": {"name": "conv4", "channels": 4, **({"flatten": False} if name == "relationnet" else {})},
            "data": {"name": places.name},
            "training": {"steps": 1},
        }
    )
    with seeded(0):
        learner = build_learner(config, places).eval()
    learner.transform, learner.provenance = places.transform, {"examples": 64}
    # Heads on the conventional network of its backbone; where that keeps its maps also the network as a whole.
    names = list(BASELINES["classification"]) if name == "relationnet" else ["linear_probe", "nearest_centroid"]
    found = kshot.evaluate(learner, places.test, tasks=2, baselines=names)
    assert list(found.baselines) == names
    assert not [note for note in found.notes if "left out" in note]
