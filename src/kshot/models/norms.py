"""Normalisation whose statistics come from one task, and from where the policy says.

The field's hardest bug is BatchNorm: statistics that leak from one task to another, from queries to each other, or from
padding. Here a layer never decides by itself inside an adapted network:

- `TaskBatchNorm` *shared by all tasks* (in `Learner.features`): in train mode it normalises by the examples it is
  given, which the engine makes one task's real examples; running statistics move once an outer step, by the mean over
  the meta-batch (`commit`); in eval mode it uses the running statistics.
- `TaskBatchNorm` *inside what is adapted* gets an explicit `Statistics`: the masked batch's own (collected on the way),
  or ones collected before. MAML's policies: `norm="support"` predicts with the support's statistics (inductive),
  `norm="batch"` with the query batch's own (transductive, as the original code does).
- `norm="group"` builds `GroupNorm`, which has no statistics across examples at all.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.errors import UnsupportedError
from kshot.models.switch import single_task

NormKind = Literal["batch", "group", "none"]


@dataclass
class Statistics:
    """Where the batch-normalisation layers of one functional call take their statistics from.

    Attributes:
        mask: bool `[n]`, the real examples (None: all are). Padding never counts.
        given: mean and variance for each layer, to be used instead of the batch's own.
        collected: filled by the layers with the statistics that they used.
        wanted: whether `collected` will be looked at.
    """

    mask: Tensor | None = None
    given: dict[str, dict[str, Tensor]] | None = None
    collected: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    wanted: bool = True


class TaskBatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over one task's examples; see the module's text for the policies.

    Args:
        features: number of channels.
        momentum: weight of a meta-batch's mean statistics in the running ones.
    """

    running_mean: Tensor
    running_var: Tensor
    pending_mean: Tensor
    pending_var: Tensor
    pending_tasks: Tensor

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.features, self.momentum, self.eps = features, momentum, eps
        self.path = ""
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        # What the tasks of this outer step add to the running statistics: moved over by `commit`.
        self.register_buffer("pending_mean", torch.zeros(features), persistent=False)
        self.register_buffer("pending_var", torch.zeros(features), persistent=False)
        self.register_buffer("pending_tasks", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """x: `[n, features, *space]`, one task's examples (or, in eval mode, any batch)."""
        if statistics is None:
            return self._shared(x)
        if statistics.given is not None:
            own = statistics.given[self.path]
            return self._normalise(x, own["mean"], own["var"])
        several = x.numel() > self.features  # of a single value torch refuses to take statistics
        if several and statistics.mask is None and not statistics.wanted and single_task.on:
            # With it a MAML step in a loop needs four fifths of the memory. Its second derivative under `vmap` is off
            # by some 0.2 % (torch 2.13, float64, against the same kernel in a loop).
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if statistics.mask is None:
            var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        else:
            mean, var = masked_moments(x, statistics.mask)
        statistics.collected[self.path] = {"mean": mean, "var": var}
        return self._normalise(x, mean, var)

    def _shared(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # momentum 1 makes the fused kernel hand out the batch's own (unbiased) statistics.
        out = F.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        with torch.no_grad():
            self.pending_mean += mean
            self.pending_var += var
            self.pending_tasks += 1
        return out

    def _normalise(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        shape = [1, -1] + [1] * (x.ndim - 2)
        return x * scale.view(shape) + shift.view(shape)

    def commit(self) -> None:
        """Moves the running statistics by the mean of those of the tasks since the last outer step."""
        if self.pending_tasks:
            self.running_mean.lerp_(self.pending_mean / self.pending_tasks, self.momentum)
            self.running_var.lerp_(self.pending_var / self.pending_tasks, self.momentum)
            self.forget()

    def forget(self) -> None:
        """Drops the statistics of the tasks since the last outer step."""
        for pending in (self.pending_mean, self.pending_var, self.pending_tasks):
            pending.zero_()

    def extra_repr(self) -> str:
        return f"{self.features}, momentum={self.momentum}, eps={self.eps}"


class FeatureStatistics(nn.Module):
    """Lets features through as they are, and keeps a running mean and variance of those that it sees in training.

    They are means over the examples of the last outer steps, some `1 / momentum` of them (of all, while there were
    fewer): features change while the network is trained.

    Args:
        features: entries of a feature vector.
        momentum: weight of the newest step.
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor
    pending: Tensor
    pending_count: Tensor

    def __init__(self, features: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("steps", torch.zeros(()))
        # Sums of the features and of their squares since the last outer step.
        self.register_buffer("pending", torch.zeros(2, features), persistent=False)
        self.register_buffer("pending_count", torch.zeros(()), persistent=False)

    @property
    def length(self) -> Tensor:
        """Root mean square length of the features when they are centred, a scalar."""
        return self.variance.sum().clamp(min=1e-12).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """x: `[n, features]`."""
        if self.training:
            with torch.no_grad():
                self.pending += torch.stack([x.sum(0), x.square().sum(0)])
                self.pending_count += len(x)
        return x

    def standardise(self, x: Tensor) -> Tensor:
        """`[n, features]` centred, and in units of a feature's root mean square: one unit for all of them, so that none
        is blown up that hardly varies. In training and in eval mode alike by the running mean and variance."""
        unit = self.length / math.sqrt(self.mean.numel())
        return (x - self.mean) / unit

    def commit(self) -> None:
        """Takes what was seen since the last outer step into the running mean and variance."""
        if self.pending_count:
            mean, square = self.pending / self.pending_count
            self.steps += 1
            weight = max(self.momentum, 1 / float(self.steps))
            self.mean.lerp_(mean, weight)
            self.variance.lerp_((square - mean.square()).clamp(min=0), weight)
        self.forget()

    def forget(self) -> None:
        """Drops what was seen since the last outer step."""
        self.pending.zero_()
        self.pending_count.zero_()


def masked_moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of `x` `[n, c, *space]` over the real examples, `mask` `[n]`."""
    axes = [0, *range(2, x.ndim)]
    weight = mask.to(x.dtype).view([-1] + [1] * (x.ndim - 1))
    count = (weight.sum() * (x[0, 0].numel() if x.ndim > 2 else 1)).clamp(min=1)
    mean = (x * weight).sum(axes) / count
    centred = (x - mean.view([1, -1] + [1] * (x.ndim - 2))) * weight
    return mean, centred.square().sum(axes) / count


class Sequential(nn.Sequential):
    """`nn.Sequential` that hands `statistics` on to the layers that take them."""

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        for layer in self:
            x = layer(x, statistics) if isinstance(layer, (TaskBatchNorm, Sequential)) else layer(x)
        return x


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """The layer of a norm policy: `"batch"`, `"group"` (8 channels a group where that divides) or `"none"`."""
    if kind == "batch":
        return TaskBatchNorm(channels)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8) if channels % 8 == 0 else 1, channels)
    if kind == "none":
        return nn.Identity()
    raise UnsupportedError(f"expected norm 'batch', 'group' or 'none', got {kind!r}")


def batch_norms(module: nn.Module) -> Iterator[tuple[str, TaskBatchNorm]]:
    """Every `TaskBatchNorm` of the module with its path."""
    for path, layer in module.named_modules():
        if isinstance(layer, TaskBatchNorm):
            yield path, layer


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether any layer normalises across examples."""
    return any(isinstance(m, (TaskBatchNorm, nn.modules.batchnorm._BatchNorm)) for m in module.modules())


def prepare_adapted(module: nn.Module) -> bool:
    """Readies a network that will be adapted as a whole: names its `TaskBatchNorm` layers and says whether it has any.

    Raises:
        UnsupportedError: it holds torch's own BatchNorm, which updates shared statistics in place, or its `forward`
            takes no `statistics` although a layer needs them.
    """
    foreign = [name for name, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if foreign:
        raise UnsupportedError(
            f"{type(module).__name__}.{foreign[0]} is torch's BatchNorm, whose running statistics leak between tasks "
            "and fail under vmap. Use kshot.models.TaskBatchNorm (with kshot.models.Sequential) or "
            "torch.nn.GroupNorm instead."
        )
    layers = list(batch_norms(module))
    for path, layer in layers:
        layer.path = path
    if layers and "statistics" not in inspect.signature(module.forward).parameters:
        raise UnsupportedError(
            f"{type(module).__name__} holds TaskBatchNorm layers, but its forward(x) takes no 'statistics' to hand on "
            "to them. Write forward(self, x, statistics=None), as kshot.models.Conv4 does."
        )
    return bool(layers)


def pending(module: nn.Module) -> Iterator[Tensor]:
    """What the tasks since the last outer step add to running statistics: sums, to be added over processes."""
    for child in module.modules():
        if isinstance(child, TaskBatchNorm):
            yield from (child.pending_mean, child.pending_var, child.pending_tasks)
        elif isinstance(child, FeatureStatistics):
            yield from (child.pending, child.pending_count)


def commit(module: nn.Module) -> None:
    """Ends an outer step: moves running statistics by the mean over the meta-batch's tasks, and forgets the tasks."""
    for child in module.modules():
        if isinstance(child, (TaskBatchNorm, FeatureStatistics)):
            child.commit()


def forget(module: nn.Module) -> None:
    """Drops the statistics of the tasks since the last outer step."""
    for child in module.modules():
        if isinstance(child, (TaskBatchNorm, FeatureStatistics)):
            child.forget()
