"""What the learners share that are trained as ordinary classifiers: the field's baselines."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import cosine as cosines
from kshot.learners.base import Learner
from kshot.models.norms import FeatureStatistics


class ConventionalLearner(Learner):
    """Learns to tell all training classes apart, by one classifier, as anyone would; tasks then use its features.

    An episode is nothing but a batch here: the loss is the cross entropy of all its examples, support and query, among
    all classes of the pool. What a task makes of the features is a subclass's.

    Args:
        backbone: the features, `[n, *shape] -> [n, d]`.
        classes: of the training pool; a configuration fills it in. None: nothing is to be trained any more.
        cosine: the classifier compares directions alone, times a learned scale (Chen et al. 2019, Baseline++).

    Raises:
        UnsupportedError: fewer than two classes.
    """

    abstract: ClassVar[bool] = True
    native = True

    def __init__(self, backbone: nn.Module, classes: int | None = None, cosine: bool = False) -> None:
        super().__init__()
        if classes is not None and classes < 2:
            raise UnsupportedError(f"expected at least 2 training classes, got {classes}")
        size = int(backbone.out_features)  # type: ignore[arg-type]
        self.backbone, self.cosine, self.classes = backbone, cosine, classes
        self.classifier = None if classes is None else nn.Linear(size, classes, bias=not cosine)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log()) if cosine and classes is not None else None
        self.statistics = FeatureStatistics(size)

    def features(self, x: Any) -> Any:
        return self.statistics(self.backbone(x))

    def objective(self, support: Examples, query: Examples, class_ids: Tensor | None = None) -> Tensor:
        if self.classifier is None or class_ids is None or self.classes is None:
            raise UnsupportedError(
                f"this {type(self).__name__} was made without training classes: make it with "
                "classes=source.train.classes to train it"
            )
        z = torch.cat([self.embedded(support.x), self.embedded(query.x)], -2)
        label = torch.cat([class_ids.gather(-1, support.y), class_ids.gather(-1, query.y)], -1).clamp(min=0)
        real = torch.cat([support.mask, query.mask], -1).to(z.dtype)
        losses = -F.log_softmax(self.classify(z), -1).gather(-1, label.unsqueeze(-1)).squeeze(-1)
        return (losses * real).sum(-1) / real.sum(-1).clamp(min=1)

    def embedded(self, x: Any) -> Tensor:
        """The features `[..., n, d]` of what the hooks are given, which is features already."""
        return first_tensor(x)

    def classify(self, z: Tensor) -> Tensor:
        """Logits of all training classes for features `[..., n, d]`: `[..., n, classes]`."""
        assert self.classifier is not None
        if self.log_scale is None:
            out: Tensor = self.classifier(z)
            return out
        return self.log_scale.exp() * cosines(z, self.classifier.weight)
