"""The few-shot classifier with scikit-learn's face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from kshot.episodes import first_tensor
from kshot.errors import ConfigError, SupportError, UnsupportedError
from kshot.estimators.base import FewShotEstimator, joined
from kshot.estimators.discriminant import Discriminant
from kshot.learners.base import Learner
from kshot.learners.support import check_semi_supervised


class FewShotClassifier(ClassifierMixin, FewShotEstimator):  # type: ignore[misc]
    """Learns classes from a few examples of each.

    With a `run`, `fit` adapts a meta-trained learner: examples are images (paths, Pillow images, uint8 arrays of any
    size) or whatever else it was trained on. Without one it works on plain feature arrays `[n, d]` by a closed-form
    head: nearest class means in the metric of a shrunken covariance.

    Args:
        run: a run folder, a saved learner, the name of a learner that ships with kshot, or a `Learner`.
        steps: inner steps, of a learner that takes any; None leaves it to the learner.
        device: where to compute: "cpu", "cuda", "auto", or None: where the learner is.
        shrinkage: of the closed-form head, 0 (the covariance as estimated) to 1 (Euclidean distances); None estimates
            it.

    Attributes:
        classes_: the labels, sorted, as they were given.
        n_features_in_: numbers in an example.
        model_: with a run: the `AdaptedModel`, whose `save(path)` writes the task for `kshot predict`.
        head_: without one.

    >>> import kshot
    >>> clf = kshot.FewShotClassifier().fit([[0.0], [0.2], [1.0], [1.1]], ["low", "low", "high", "high"])
    >>> print(*clf.predict([[0.1], [0.9]]))
    low high
    """

    classes_: NDArray[Any]
    _seen: NDArray[Any]
    _unlabeled: Any

    _outputs = ("logits",)
    _other = "FewShotRegressor"

    def __init__(
        self,
        run: str | Path | Learner | None = None,
        *,
        steps: int | None = None,
        device: str | torch.device | None = None,
        shrinkage: float | None = None,
    ) -> None:
        self.run = run
        self.steps = steps
        self.device = device
        self.shrinkage = shrinkage

    def fit(self, X: Any, y: ArrayLike, *, unlabeled: Any = None) -> FewShotClassifier:
        """Learns a task, forgetting an earlier one.

        Args:
            X: examples; without a run features `[n, d]`, with one what `kshot.estimators.learner_input` takes.
            y: labels `[n]`: strings or numbers, uneven as they may be.
            unlabeled: more examples, of these classes or of others, for a run whose learner is `semi_supervised`.

        Raises:
            SupportError: fewer than two classes, NaNs, or a shape that the learner does not take.
            UnsupportedError: more classes than the learner's head, a regressor's run, or unlabelled examples that
                nothing makes use of.
            ConfigError: shrinkage outside [0, 1].
        """
        return self._learn(X, y, None, unlabeled, first=True, fewest=2)

    def partial_fit(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None = None, *, unlabeled: Any = None
    ) -> FewShotClassifier:
        """Adds shots, of known classes or new ones, and learns the task from all shots so far: as `fit` on all of them.

        Args:
            X, y: as for `fit`; one class will do.
            classes: labels that are to come, for scikit-learn's sake; they have probability 0 until they do.
            unlabeled: these add up, too.
        """
        return self._learn(X, y, classes, unlabeled, first=not hasattr(self, "_shots"), fewest=1)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Class probabilities `[n, classes]`, in the order of `classes_`.

        Raises:
            NotFittedError: `fit` comes first.
            SupportError: NaNs, or another shape than the shots had.
        """
        check_is_fitted(self)
        if self._learner is None:
            x = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            x = self._examples(self._learner, X, "query")
        probabilities = np.zeros((len(first_tensor(x)), len(self.classes_)))
        columns = np.searchsorted(self.classes_, self._seen)
        if len(self._seen) == 1:
            probabilities[:, columns] = 1.0
        elif self._learner is None:
            probabilities[:, columns] = self.head_.probabilities(x)
        else:
            found = self._outputs_of(self.model_, x, self.model_.probabilities).double().numpy()
            probabilities[:, columns] = found / found.sum(1, keepdims=True)
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of each example `[n]`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]  # type: ignore[no-any-return]

    def _learn(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None, unlabeled: Any, *, first: bool, fewest: int
    ) -> FewShotClassifier:
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise ConfigError(f"expected shrinkage in [0, 1] or None, got {self.shrinkage}")
        learner = (None if self.run is None else self._resolve()) if first else self._learner
        if learner is None:
            x, labels = validate_data(self, X, y, dtype=np.float64, reset=first)
        else:
            x, labels = self._examples(learner, X, "support", reset=first), column_or_1d(y, warn=True)
            check_consistent_length(first_tensor(x), labels)
            if unlabeled is not None:
                check_semi_supervised(learner)  # now, while they can still be left out
                unlabeled = self._examples(learner, unlabeled, "unlabeled")
        if learner is None and unlabeled is not None:
            raise UnsupportedError(
                "without a run there is only a closed-form head, which makes no use of unlabelled examples: leave "
                "unlabeled out, or give a run of SoftKMeansProtoNet"
            )
        check_classification_targets(labels)
        labels, known = np.asarray(labels), [] if first else [self.classes_]
        if not first:
            x, labels = joined(self._shots[0], x), np.concatenate([self._shots[1], labels])
            if self._unlabeled is not None:
                unlabeled = self._unlabeled if unlabeled is None else joined(self._unlabeled, unlabeled)
        seen, encoded = np.unique(labels, return_inverse=True)
        if len(seen) < fewest:
            raise SupportError(
                f"expected a support set of at least {fewest} classes, got 1 class ({seen[0]}). Add examples of what "
                "it is to be told from"
            )
        if len(seen) > 1 and learner is None:
            self.head_ = Discriminant.fit(x, encoded, self.shrinkage)
        elif len(seen) > 1 and learner is not None:
            self.model_ = self._adapt(learner, x, encoded, unlabeled)
            self.model_.labels = seen.tolist()
        # Last, so that shots which could not be learned are not kept.
        self._learner, self._seen, self._shots, self._unlabeled = learner, seen, (x, labels), unlabeled
        self.classes_ = unique_labels(seen, *known, *([] if classes is None else [np.asarray(classes)]))
        return self
