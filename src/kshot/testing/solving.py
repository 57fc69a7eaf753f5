"""Whether a learner learns to solve the toys."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kshot import engine, metrics
from kshot.episodes import Episodes
from kshot.learners import Learner
from kshot.randomness import seeded
from kshot.testing.toys import baseline_score, episodes_for

LOOKS = 5
"""How often it is looked how far the learner has come."""


def solve_toys(learner: Learner, kind: str) -> None:
    """Asserts that meta-training on the toys leads as far as the learner says, within as many outer steps.

    Classification: at least its `toy_accuracy`, 85 % where it states no other. Nearest means on the raw features has
    about 71 %, guessing 20: a learner that states less than the former has the reason beside it. Regression: at most
    60 % of the error of predicting zero. Sequences: at most 60 % of the wrong bits of guessing.
    """
    episodes = episodes_for(learner, kind, 200, seed=99)
    baseline = baseline_score(kind, episodes)

    def solved() -> bool:
        learner.eval()
        score = _score(learner, episodes)
        learner.train()
        return score >= learner.toy_accuracy if learner.outputs == "logits" else score <= 0.6 * baseline

    with seeded(0):
        train_on_toys(learner, kind, steps=learner.toy_steps, until=solved)
    learner.eval()
    score = _score(learner, episodes)
    if learner.outputs == "logits":
        assert score >= learner.toy_accuracy, (
            f"accuracy {score:.3f} on the Gaussian toys, expected at least {learner.toy_accuracy} (raw: {baseline:.3f})"
        )
    elif learner.outputs == "bits":
        assert score <= 0.6 * baseline, (
            f"bit error {score:.3f} on the copying toys, expected at most {0.6 * baseline:.1f}"
        )
    else:
        assert score <= 0.6 * baseline, f"MSE {score:.3f} on the sinusoid toys, expected at most {0.6 * baseline:.3f}"


def train_on_toys(learner: Learner, kind: str, steps: int, until: Callable[[], bool] | None = None) -> None:
    """Some outer steps on the toys of a kind of task; fewer where `until`, asked `LOOKS` times, says that they are
    enough."""
    learner.train()
    parameters = list(learner.parameters())
    if not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for step in range(steps):
        losses = learner(episodes_for(learner, kind, 16, step=step), mode=_mode(learner))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        if until is not None and (step + 1) % max(1, steps // LOOKS) == 0 and until():
            return


def _score(learner: Learner, episodes: Episodes) -> float:
    """Accuracy, the share of wrong bits, or the mean squared error."""
    outputs = engine.predict_queries(learner, episodes, _mode(learner))
    if learner.outputs == "logits":
        return float((outputs.argmax(-1) == episodes.query.y).float().mean())
    if learner.outputs == "bits":
        return float(metrics.bit_error(outputs, episodes.query).mean())
    mean = outputs[..., : episodes.query.y.shape[-1]]
    return float((mean - episodes.query.y).square().mean())


def _mode(learner: Learner) -> str:
    """What is quickest for networks as small as the toys', without measuring it."""
    return "native" if learner.native else "vmap" if "vmap" in learner.modes else "loop"
