"""Whether a learner learns to solve the toys."""

from __future__ import annotations

import torch

from kshot import engine, metrics
from kshot.learners import Learner
from kshot.randomness import seeded
from kshot.testing.toys import baseline_score, episodes_for


def solve_toys(learner: Learner, kind: str) -> None:
    """Asserts that meta-training on the toys leads as far as the learner says.

    Classification: at least its `toy_accuracy`, 85 % where it states no other. Nearest means on the raw features has
    about 71 %, guessing 20: a learner that states less than the former has the reason beside it. Regression: at most
    60 % of the error of predicting zero. Sequences: at most 60 % of the wrong bits of guessing.
    """
    with seeded(0):
        train_on_toys(learner, kind, steps=learner.toy_steps)
    learner.eval()
    episodes = episodes_for(learner, kind, 200, seed=99)
    baseline = baseline_score(kind, episodes)
    outputs = engine.predict_queries(learner, episodes, _mode(learner))
    if learner.outputs == "logits":
        score = float((outputs.argmax(-1) == episodes.query.y).float().mean())
        assert score >= learner.toy_accuracy, (
            f"accuracy {score:.3f} on the Gaussian toys, expected at least {learner.toy_accuracy} (raw: {baseline:.3f})"
        )
    elif learner.outputs == "bits":
        score = float(metrics.bit_error(outputs, episodes.query).mean())
        assert score <= 0.6 * baseline, (
            f"bit error {score:.3f} on the copying toys, expected at most {0.6 * baseline:.1f}"
        )
    else:
        mean = outputs[..., : episodes.query.y.shape[-1]]
        score = float((mean - episodes.query.y).square().mean())
        assert score <= 0.6 * baseline, f"MSE {score:.3f} on the sinusoid toys, expected at most {0.6 * baseline:.3f}"


def train_on_toys(learner: Learner, kind: str, steps: int) -> None:
    """Some outer steps on the toys of a kind of task."""
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


def _mode(learner: Learner) -> str:
    """What is quickest for networks as small as the toys', without measuring it."""
    return "native" if learner.native else "vmap" if "vmap" in learner.modes else "loop"
