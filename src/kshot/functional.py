"""The few functions that most learners share; all take any leading (task) dimensions and respect the masks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot.episodes import Examples, first_tensor


def one_hot(support: Examples, dtype: torch.dtype | None = None) -> Tensor:
    """Labels as one-hot rows over the static number of classes, zero on padding: `[..., n, way]`."""
    dtype = dtype or torch.get_default_dtype()
    classes = torch.arange(support.way, device=support.y.device)
    return ((support.y.unsqueeze(-1) == classes) & support.mask.unsqueeze(-1)).to(dtype)


def class_means(support: Examples) -> Tensor:
    """The mean of each class's examples (Snell et al. 2017, eq. 1).

    Args:
        support: features `x` of shape `[..., n, d]`.

    Returns:
        `[..., way, d]`; zero for a class without examples.
    """
    x = first_tensor(support.x)
    labels = one_hot(support, x.dtype)
    sums = labels.transpose(-1, -2) @ x
    return sums / labels.sum(-2).clamp(min=1).unsqueeze(-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of `a` `[..., n, d]` and of `b` `[..., m, d]`: `[..., n, m]`.

    By |a|^2 - 2ab + |b|^2, clamped at zero: twice differentiable at every point, unlike `torch.cdist`. Both are centred
    first, as the cancellation error grows with the distance from the origin.
    """
    centre = b.mean(-2, keepdim=True)
    a, b = a - centre, b - centre
    product = a @ b.transpose(-1, -2)
    distance = a.square().sum(-1).unsqueeze(-1) - 2 * product + b.square().sum(-1).unsqueeze(-2)
    return distance.clamp(min=0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines between the rows of `a` `[..., n, d]` and of `b` `[..., m, d]`: `[..., n, m]`."""
    return F.normalize(a, dim=-1, eps=1e-6) @ F.normalize(b, dim=-1, eps=1e-6).transpose(-1, -2)


def hide(logits: Tensor, seen: Tensor) -> Tensor:
    """Logits with those that are not `seen` (of a shape that broadcasts) pushed to a finite minimum.

    Finite, because an infinite logit times a zero mask would be NaN; where none is seen, a softmax is uniform.
    """
    return logits.masked_fill(~seen, torch.finfo(logits.dtype).min / 4)


def mask_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits `[..., n, way]` with the classes that the task does not have (`[..., way]` false) hidden."""
    return hide(logits, classes.unsqueeze(-2))


def masked_cross_entropy(logits: Tensor, query: Examples) -> Tensor:
    """Mean cross entropy over the real queries of each task: logits `[..., n, way]` -> `[...]`."""
    log_probabilities = F.log_softmax(mask_logits(logits, query.classes), dim=-1)
    losses = -log_probabilities.gather(-1, query.y.unsqueeze(-1)).squeeze(-1)
    return _masked_mean(losses, query.mask)


def masked_mse(values: Tensor, query: Examples) -> Tensor:
    """Mean squared error over the real queries (and all outputs) of each task: `[..., n, d]` -> `[...]`."""
    return _masked_mean((values - query.y).square().mean(-1), query.mask)


def masked_binary_cross_entropy(logits: Tensor, query: Examples) -> Tensor:
    """Mean binary cross entropy over the real queries (and all bits) of each task: logits `[..., n, d]` -> `[...]`."""
    losses = F.binary_cross_entropy_with_logits(logits, query.y, reduction="none")
    return _masked_mean(losses.mean(-1), query.mask)


def masked_gaussian_nll(output: Tensor, query: Examples) -> Tensor:
    """Mean negative log-likelihood of a Gaussian with a mean and a log-variance for each output.

    Args:
        output: `[..., n, 2d]`, the means followed by the log-variances.
        query: targets `[..., n, d]`.
    """
    mean, log_variance = output.chunk(2, dim=-1)
    nll = 0.5 * (log_variance + (mean - query.y).square() * torch.exp(-log_variance) + 1.8378770664093453)
    return _masked_mean(nll.sum(-1), query.mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(values.dtype)
    return (values * weights).sum(-1) / weights.sum(-1).clamp(min=1)
