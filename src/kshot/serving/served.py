"""A learner as the server holds it: what it reads, what it embeds with, what is known of its confidence."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kshot import engine
from kshot.artifacts import load_learner
from kshot.engine.features import CPU_CHUNK
from kshot.episodes import Input, first_tensor
from kshot.errors import SupportError, UnsupportedError
from kshot.learners.base import Learner
from kshot.learners.support import prepare_input
from kshot.serving.frozen import Features, frozen_features
from kshot.serving.problems import InputError


@dataclass(eq=False)
class ServedModel:
    """One meta-learned model.

    Attributes:
        name: what requests call it by.
        path: where it was loaded from.
        digest: of its class, its configuration and its weights.
        learner: in eval mode, for predictions; one thread uses it.
        adapter: an equal one, for adaptations in another thread: a functional call swaps parameters for its length.
        calibration: of its confidence and of its queries' distances, as `calibrate` measured them on val tasks; empty
            where it could not.
        frozen: its shared features, compiled; None where they are not.
    """

    name: str
    path: str
    digest: str
    learner: Learner
    adapter: Learner
    calibration: dict[str, Any] = field(default_factory=dict)
    frozen: Features | None = None

    @classmethod
    def load(cls, path: str | Path, name: str | None = None) -> ServedModel:
        """The model of a run, a saved learner or a shipped name.

        Raises:
            ArtifactError: there is none.
            UnsupportedError: it is no classifier.
        """
        learner, digest = load_learner(path)
        if learner.kind != "classification":
            raise UnsupportedError(
                f"expected a learner of classes to serve, got {path}, a {type(learner).__name__} for {learner.kind}: "
                "use it in Python, with kshot.adapt"
            )
        learner.eval().requires_grad_(requires_grad=False)
        name = name or Path(path).name
        here = Path(path).expanduser()
        return cls(
            name,
            str(here.absolute()) if here.exists() else str(path),
            digest,
            learner,
            copy.deepcopy(learner),
            frozen=frozen_features(learner),
        )

    @property
    def cheap(self) -> bool:
        """Whether a task is adapted on shared features: what may be done many times over within a request."""
        return self.learner.shares_features()

    @property
    def steps(self) -> int | None:
        """The inner steps that `adapt` takes where it is told no number; None where it takes none."""
        if "steps" not in self.learner.adapt_options:
            return None
        known = (getattr(self.learner, name, None) for name in ("test_steps", "inner_steps", "steps"))
        return next((int(steps) for steps in known if steps is not None), None)

    def calibrated(self, shot: float) -> dict[str, Any]:
        """What was measured on tasks of about so many examples a class; nothing where nothing was."""
        shots: dict[str, Any] = self.calibration.get("shots", {})
        if not shots:
            return {}
        near = min(shots, key=lambda known: abs(math.log(int(known) / max(shot, 0.5))))
        return dict(shots[near])

    def normalise(self, x: Tensor) -> Input:
        """Stored examples `[n, *shape]` as the network sees them.

        Raises:
            InputError: NaNs, or another shape than the model takes.
        """
        if x.dtype == torch.uint8 and self.learner.transform is not None:
            return self.learner.transform.normalise(x)  # pixels are never NaN, and were read to the model's shape
        try:
            return prepare_input(self.learner, x, "given")
        except (SupportError, UnsupportedError) as error:
            raise InputError(str(error)) from None

    def embed(self, learner: Learner, x: Input) -> tuple[Input, Tensor]:
        """Shared features of raw examples, and what tells how near two of them are: `[n, d]`, the features themselves
        where the learner has some."""
        with torch.no_grad():
            if self.frozen is not None and isinstance(x, Tensor):
                z: Input = torch.cat([self.frozen(part) for part in x.split(CPU_CHUNK)])
            else:
                z = engine.compute_features(learner, x)
        return z, first_tensor(z).flatten(1)
