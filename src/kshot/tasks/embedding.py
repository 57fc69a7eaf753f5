"""Embeddings of a pool's examples that need no labels: principal components, or the features of what was trained."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kshot.datasets.clusters import principal_components
from kshot.errors import ConfigError
from kshot.tasks.gather import Gatherer

Embedding = str | Path | Callable[[Tensor], Tensor]
"""`"pca"`, the folder of a run or of a saved learner, or a function of inputs `[n, *shape]` to `[n, d]`: a learner
stands for its features."""

COMPONENTS = 64
"""How many dimensions `"pca"` has, at most."""

_AT_ONCE = 512


def describe(embedding: Embedding) -> str:
    """What a split's options say of an embedding.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(embedding, (str, Path)):
        return str(embedding)
    if not callable(embedding):
        raise ConfigError(
            "expected embedding to be 'pca', the folder of a run, or a function (a learner, a backbone) of inputs "
            f"[n, *shape] to [n, d]; got {embedding!r}"
        )
    kind = embedding if hasattr(embedding, "__qualname__") else type(embedding)
    return f"<{kind.__qualname__} of a script>"


def embed(embedding: Embedding, gather: Gatherer, identity: NDArray[np.int64]) -> NDArray[np.float32]:
    """Examples `[n]`, each a row and a turn of the gatherer's pool, as float32 `[n, d]`.

    Modules embed in eval mode, and a learner sees examples normalised as it was trained on them.

    Raises:
        ConfigError: no such embedding, one for other examples, or not `[n, d]`.
        ArtifactError: no learner in the folder.
    """
    if embedding == "pca":
        return principal_components(gather(identity).flatten(1).numpy(), COMPONENTS)
    model: Any = _saved(str(embedding)) if isinstance(embedding, (str, Path)) else embedding
    function = model
    if hasattr(model, "shares_features"):
        function, gather = _features(model, gather)
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
    device = next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in modules]
    parts = []
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            for first in range(0, len(identity), _AT_ONCE):
                part = identity[first : first + _AT_ONCE]
                parts.append(_checked(function(gather(part, device)), len(part)))
    finally:
        for module, training in modes:
            module.training = training
    return np.concatenate(parts)


def _saved(path: str) -> Any:
    from kshot.artifacts import from_pretrained  # of a higher layer: a name in a configuration stands for a learner

    if path.startswith("<"):
        raise ConfigError(
            f"the embedding {path} was given in Python, and is nowhere saved: give it again, or save the learner with "
            "save_pretrained and give its folder"
        )
    if not Path(path).exists():
        raise ConfigError(
            f"unknown embedding {path!r}: expected 'pca', or the folder of a run or of a saved learner, relative to "
            f"{Path.cwd()}"
        )
    return from_pretrained(path)


def _features(learner: Any, gather: Gatherer) -> tuple[Callable[[Tensor], Tensor], Gatherer]:
    """A learner's features, and the examples as it takes them."""
    name = type(learner).__name__
    if not learner.shares_features():
        raise ConfigError(
            f"a {name} shares no features among tasks that could be clustered: use a learner that does, such as "
            "ProtoNet, or a backbone"
        )
    if learner.input_shape not in (None, gather.shape):
        raise ConfigError(
            f"this {name} embeds examples of shape {list(learner.input_shape)}, those to cluster have "
            f"{list(gather.shape)}: load the data with another size, or use another embedding"
        )
    if learner.transform not in (None, gather.transform):
        gather = copy(gather)
        gather.transform = learner.transform
    return learner.features, gather


def _checked(z: Any, n: int) -> NDArray[np.float32]:
    shape = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
    if not isinstance(z, Tensor) or z.ndim < 2 or len(z) != n:
        raise ConfigError(f"expected an embedding of {n} examples to be a tensor [{n}, d], got {shape}")
    return z.flatten(1).float().cpu().numpy()
