"""What cannot be trained, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training_toys import FEATURES, Broken, fit, gaussians, maml, protonet, sinusoids

import kshot
from kshot import engine, models
from kshot.errors import ArtifactError, ConfigError, DivergedError, UnsupportedError


def test_a_loss_that_is_not_finite(tmp_path: Any) -> None:
    with pytest.raises(DivergedError) as caught:
        fit(Broken(after=3), gaussians(), save_every=2, out=tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("the loss of step 4 is not finite: the training diverged, and was stopped.")
    assert f"The checkpoint of step 2 is intact ({tmp_path / 'run' / 'checkpoints' / 'step-00000002'})." in message
    assert "a lower lr (it is 0.001) or clip=1.0" in message


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    class Steep(kshot.Learner):
        native = True

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def adapt(self, support: Any) -> Any:
            return {"means": kshot.class_means(support)}

        def predict(self, adapted: Any, x: Any) -> Any:
            return -kshot.squared_distance(x, adapted["means"]) + self.weight.sqrt()

    learner = Steep()
    with pytest.raises(DivergedError, match="the gradient of step 1 is not finite"):
        fit(learner, gaussians())
    assert float(learner.weight.detach()) == 0.0


def test_a_loss_that_depends_on_no_parameter() -> None:
    class Idle(Broken):
        def adapt(self, support: Any) -> Any:
            return {"means": kshot.class_means(support)}

        def predict(self, adapted: Any, x: Any) -> Any:
            return -kshot.squared_distance(x, adapted["means"])

    with pytest.raises(UnsupportedError, match="the loss of Idle does not depend on any of its parameters"):
        fit(Idle(), gaussians())


def test_a_learner_that_cannot_be_saved_is_told_before_the_first_step(tmp_path: Any) -> None:
    learner = kshot.ProtoNet(nn.Linear(FEATURES, 4))
    with pytest.raises(ArtifactError, match=r"derive from kshot\.models\.Backbone"):
        fit(learner, gaussians(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert fit(learner, gaussians()).steps == 6  # without a run folder it trains


@pytest.mark.parametrize(
    ("learner", "source", "message"),
    [
        (maml, gaussians, "this MAML does regression, the tasks of train are classification"),
        (protonet, sinusoids, "this ProtoNet does classification, the tasks of train are regression"),
        (
            lambda: kshot.MAML(models.MLP(FEATURES), way=2),
            gaussians,
            "a head of 2 classes, the tasks of train have up to 3",
        ),
        (lambda: kshot.ProtoNet(models.MLP(4)), gaussians, r"takes examples of shape \[4\], those of train have \[6\]"),
    ],
)
def test_tasks_that_do_not_fit(learner: Any, source: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        fit(learner(), source())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected steps to be a whole number of at least 1, got 0"),
        ({"meta_batch": 2.5}, "expected meta_batch to be a whole number of at least 1, got 2.5"),
        ({"lr": -1.0}, "expected lr to be a number above 0, got -1.0"),
        ({"clip": 0}, "expected clip to be a number above 0, got 0"),
        ({"patience": 0}, "expected patience to be a whole number of at least 1, got 0"),
        (
            {"mode": "vmp"},
            "expected mode to be one of auto, loop, vmap, compile, native, got 'vmp'. Did you mean 'vmap'?",
        ),
        ({"amp": "bf32"}, "expected amp to be one of bf16, fp16, got 'bf32'. Choose one of these."),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'. Did you mean 'adam'?"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'. Did you mean 'cosine'?"),
        ({"loggers": ["tensorbord"]}, "unknown logger 'tensorbord'. Did you mean 'tensorboard'?"),
        ({"seed": "a"}, "expected seed to be a whole number, got 'a'"),
        ({"device": "gpuu"}, "expected a device such as 'auto', 'cpu' or 'cuda:0', got 'gpuu'"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(protonet(), gaussians(), **options)
    assert message in str(caught.value)


def test_a_mode_that_the_learner_does_not_have() -> None:
    with pytest.raises(UnsupportedError, match="MAML takes one task at a time: use loop, vmap or compile, not native"):
        fit(maml(), sinusoids(), mode="native")


def test_a_compiled_learner_that_computes_something_else() -> None:
    class Miscompiled(kshot.ProtoNet):
        def predict(self, adapted: Any, z: Any) -> Any:
            return super().predict(adapted, z) * (3 if torch.compiler.is_compiling() else 1)

    learner = Miscompiled(models.MLP(FEATURES, hidden=(8,)))
    with (
        engine.compile_backend("eager"),
        pytest.raises(UnsupportedError, match="another loss or meta-gradient for Miscompiled than vmap does"),
    ):
        fit(learner, gaussians(), mode="compile")


def test_a_learner_that_cannot_be_compiled_is_trained_without() -> None:
    class Uncompilable(kshot.ProtoNet):
        def predict(self, adapted: Any, z: Any) -> Any:
            if torch.compiler.is_compiling():
                raise RuntimeError("no such kernel")
            return super().predict(adapted, z)

    with engine.compile_backend("eager"):
        result = fit(Uncompilable(models.MLP(FEATURES, hidden=(8,))), gaussians(), mode="compile")
    assert result.mode == "vmap"


def test_training_compiled_moves_the_weights_as_the_loop_does() -> None:
    """Through clipping, accumulation and a last chunk that is smaller than the others."""
    learners = {}
    for mode in ("loop", "compile"):
        torch.manual_seed(0)
        learners[mode] = maml()
        with engine.compile_backend("eager"):
            result = fit(learners[mode], sinusoids(), mode=mode, meta_batch=5, chunk=2, accumulate=2, clip=0.5)
        assert result.mode == mode
    for ours, theirs in zip(learners["compile"].parameters(), learners["loop"].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
