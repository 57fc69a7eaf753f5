"""Nearest centroids on conventional features."""

from __future__ import annotations

from torch import nn

from kshot.learners.simpleshot import SimpleShot


class NearestCentroid(SimpleShot):
    """A query belongs to the class whose mean of features is nearest: `SimpleShot` without normalisation.

    argmin_c |f(x) - mean_c|^2: the nearest class mean of Mensink, Verbeek, Perronnin, Csurka 2013 in the features' own
    metric, and SimpleShot's "UN" (Wang, Chao, Weinberger, van der Maaten 2019).

    Args:
        backbone: the features, `[n, *shape] -> [n, d]`.
        classes: of the training pool.
    """

    def __init__(self, backbone: nn.Module, classes: int | None = None) -> None:
        super().__init__(backbone, classes, normalise="none")
