"""What both estimators share: where their learner comes from, and shots that add up."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from torch import Tensor

from kshot.artifacts import from_pretrained
from kshot.episodes import Input, first_tensor
from kshot.errors import SupportError, UnsupportedError
from kshot.estimators.inputs import learner_input
from kshot.learners.adapted import AdaptedModel, adapt
from kshot.learners.base import Learner

PREDICT_CHUNK = 1024


class FewShotEstimator(BaseEstimator):  # type: ignore[misc]
    """A scikit-learn estimator over a meta-trained learner, or over a closed-form head where there is none."""

    run: str | Path | Learner | None
    steps: int | None
    device: str | torch.device | None

    _outputs: tuple[str, ...]
    _other: str
    # Set by fit: the learner (None: a closed-form head) and all examples with their labels so far.
    _learner: Learner | None
    _shots: tuple[Any, Any]

    @classmethod
    def from_pretrained(cls, path: str | Path, **parameters: Any) -> Any:
        """An estimator over a saved learner, which is loaded here and now.

        Args:
            path: a folder that `save_pretrained` wrote, a run folder, or the name of a learner that ships with kshot.
            parameters: the constructor's others.

        Raises:
            ArtifactError: there is no learner, or one that cannot be loaded.
            UnsupportedError: a learner for the other kind of task.
        """
        estimator = cls(run=str(path), **parameters)
        estimator._loaded = (estimator.run, estimator._checked(from_pretrained(path)))
        return estimator

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        if self.run is not None:
            tags.input_tags.three_d_array = True
            tags.input_tags.string = True  # paths
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_shots")

    def _resolve(self) -> Learner:
        """The learner that `run` stands for, on the device that was asked for."""
        run = self.run
        assert run is not None
        loaded = self.__dict__.get("_loaded")
        if isinstance(run, Learner):
            learner = run
        elif loaded is not None and loaded[0] == run:
            learner = loaded[1]
        else:
            learner = from_pretrained(run)
        learner = self._checked(learner)
        if self.device is not None:
            learner = _moved(learner, torch.device(_device(self.device)), copied=isinstance(run, Learner))
        return learner

    def _checked(self, learner: Learner) -> Learner:
        if learner.outputs not in self._outputs:
            use = f"use kshot.{self._other}, or another run"
            if learner.kind == "sequence":
                use = "use kshot.adapt(learner, (sequence, None)), or another run"
            raise UnsupportedError(f"this {type(learner).__name__} was made for {learner.kind}: {use}")
        return learner

    def _examples(self, learner: Learner, examples: Any, what: str, *, reset: bool = False) -> Input:
        """Examples as the learner takes them; sets or checks `n_features_in_`."""
        x = learner_input(learner, examples, what)
        features = first_tensor(x)[0].numel() if len(first_tensor(x)) else 0
        if reset:
            self.n_features_in_ = features
        elif first_tensor(x).shape[0] and features != self.n_features_in_:
            raise SupportError(
                f"X has {features} features, but {type(self).__name__} is expecting {self.n_features_in_} features as "
                "input: give examples of the same shape as the first ones"
            )
        return x

    def _adapt(self, learner: Learner, x: Input, y: Any, unlabeled: Input | None = None) -> AdaptedModel:
        options: dict[str, Any] = {} if self.steps is None else {"steps": self.steps}
        return adapt(learner, (x, y), unlabeled=unlabeled, **options)

    def _outputs_of(self, model: AdaptedModel, x: Input, predict: Any) -> Tensor:
        """Predictions in chunks, or at once where they depend on one another."""
        n = first_tensor(x).shape[0]
        if model.learner.transductive or n <= PREDICT_CHUNK:
            result: Tensor = predict(x)
            return result.cpu()
        parts = [predict(_rows(x, slice(i, i + PREDICT_CHUNK))).cpu() for i in range(0, n, PREDICT_CHUNK)]
        return torch.cat(parts)


def joined(a: Any, b: Any) -> Any:
    """Two arrays, tensors or dicts of tensors, one after the other."""
    if isinstance(a, dict):
        return {name: torch.cat([a[name], b[name]]) for name in a}
    return torch.cat([a, b]) if isinstance(a, Tensor) else np.concatenate([a, b])


def _rows(x: Input, rows: slice) -> Input:
    return {name: value[rows] for name, value in x.items()} if isinstance(x, dict) else x[rows]


def _device(name: str | torch.device) -> str | torch.device:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _moved(learner: Learner, device: torch.device, *, copied: bool) -> Learner:
    """The learner on a device; a user's own one stays where it is."""
    here = next(learner.parameters(), torch.empty(0)).device
    if here.type == device.type and device.index in (None, here.index):
        return learner
    return (copy.deepcopy(learner) if copied else learner).to(device)
