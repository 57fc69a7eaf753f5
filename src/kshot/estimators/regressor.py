"""The few-shot regressor with scikit-learn's face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

from kshot.episodes import first_tensor
from kshot.errors import ConfigError, SupportError, UnsupportedError
from kshot.estimators.base import FewShotEstimator, joined
from kshot.estimators.kernel import KernelRidge
from kshot.learners.base import Learner


class FewShotRegressor(RegressorMixin, FewShotEstimator):  # type: ignore[misc]
    """Learns a function from a few points.

    With a `run`, `fit` adapts a learner that was meta-trained on a family of functions. Without one it works on plain
    feature arrays `[n, d]` by a closed-form head: kernel ridge regression.

    Args:
        run: a run folder, a saved learner, or a `Learner`.
        steps: inner steps, of a learner that takes any; None leaves it to the learner.
        device: where to compute: "cpu", "cuda", "auto", or None: where the learner is.
        alpha: regularisation of the closed-form head, in units of its kernel's diagonal; None chooses it by
            leave-one-out.

    Attributes:
        n_features_in_: numbers in an example.
        model_: with a run: the `AdaptedModel`, whose `save(path)` writes the task.
        head_: without one.

    >>> import kshot
    >>> kshot.FewShotRegressor().fit([[0.0], [1.0], [2.0]], [0.0, 2.0, 4.0]).predict([[1.0]]).round(1)
    array([2.])
    """

    _outputs = ("values", "mean_variance")
    _other = "FewShotClassifier"

    def __init__(
        self,
        run: str | Path | Learner | None = None,
        *,
        steps: int | None = None,
        device: str | torch.device | None = None,
        alpha: float | None = None,
    ) -> None:
        self.run = run
        self.steps = steps
        self.device = device
        self.alpha = alpha

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: ArrayLike) -> FewShotRegressor:
        """Learns a task, forgetting an earlier one.

        Args:
            X: examples; without a run features `[n, d]`, with one what `kshot.estimators.learner_input` takes.
            y: targets `[n]` or `[n, outputs]`.

        Raises:
            SupportError: NaNs, or a shape that the learner does not take.
            UnsupportedError: a classifier's run.
            ConfigError: alpha that is not above 0.
        """
        return self._learn(X, y, first=True)

    def partial_fit(self, X: Any, y: ArrayLike) -> FewShotRegressor:
        """Adds points, and learns the task from all points so far: as `fit` on all of them."""
        return self._learn(X, y, first=not hasattr(self, "_shots"))

    def predict(
        self, X: Any, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values `[n]`, or `[n, outputs]` where the targets were so; with `return_std` these and their standard
        deviations, of a learner that predicts both (CNP, ANP).

        Raises:
            NotFittedError: `fit` comes first.
            SupportError: NaNs, or another shape than the shots had.
            UnsupportedError: `return_std` of one that predicts values alone.
        """
        check_is_fitted(self)
        if return_std and (self._learner is None or self._learner.outputs != "mean_variance"):
            what = "The closed-form head" if self._learner is None else type(self._learner).__name__
            raise UnsupportedError(f"{what} predicts no variance: leave out return_std, or use the run of a CNP or ANP")
        deviation = np.zeros(0)
        if self._learner is None:
            values = self.head_.predict(validate_data(self, X, dtype=np.float64, reset=False))
        else:
            x = self._examples(self._learner, X, "query")
            values = self._outputs_of(self.model_, x, self.model_.predict).double().numpy()
            if self._learner.outputs == "mean_variance":
                values, log_variance = np.split(values, 2, axis=1)
                deviation = np.exp(log_variance / 2)
        if self._flat:
            values, deviation = values[:, 0], deviation[:, 0] if deviation.size else deviation
        return (values, deviation) if return_std else values

    def _learn(self, X: Any, y: ArrayLike, *, first: bool) -> FewShotRegressor:
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(f"expected alpha above 0 or None, got {self.alpha}")
        learner = (None if self.run is None else self._resolve()) if first else self._learner
        if learner is None:
            x, targets = validate_data(self, X, y, dtype=np.float64, reset=first, multi_output=True, y_numeric=True)
        else:
            x = self._examples(learner, X, "support", reset=first)
            targets = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
            check_consistent_length(first_tensor(x), targets)
        flat, targets = np.ndim(targets) == 1, np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)
        if not first:
            if targets.shape[1] != self._shots[1].shape[1]:
                raise SupportError(
                    f"expected targets of {self._shots[1].shape[1]} values, as before, got {targets.shape[1]}"
                )
            x, targets = joined(self._shots[0], x), np.concatenate([self._shots[1], targets])
        if learner is None:
            self.head_ = KernelRidge.fit(x, targets, self.alpha)
        else:
            self.model_ = self._adapt(learner, x, targets.astype(np.float32))
        # Last, so that points which could not be learned are not kept.
        self._learner, self._shots, self._flat = learner, (x, targets), flat
        return self
