"""Embeddings of a pool's examples that need no labels: principal components, or the features of what was trained."""

from __future__ import annotations

from collections.abc import Callable
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

    Raises:
        ConfigError: no such embedding, or not `[n, d]` of finite numbers.
        ArtifactError: no learner in the folder.
    """
    if embedding == "pca":
        return principal_components(gather(identity).flatten(1).numpy(), COMPONENTS)
    if isinstance(embedding, (str, Path)):
        function = _saved(str(embedding))
    else:
        function = _features(embedding)
    modules = [m for m in (embedding, getattr(function, "__self__", None)) if isinstance(m, nn.Module)]
    modes = [(module, module.training) for top in modules for module in top.modules()]
    device = next((p.device for top in modules for p in top.parameters()), torch.device("cpu"))
    parts = []
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            for first in range(0, len(identity), _AT_ONCE):
                part = identity[first : first + _AT_ONCE]
                parts.append(_checked(function(gather(part, device)), len(part)))
    finally:
        for module, training in modes:
            module.training = training
    return np.concatenate(parts)


def _saved(path: str) -> Callable[[Tensor], Tensor]:
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
    return _features(from_pretrained(path).eval())


def _features(embedding: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The features of a learner; anything else as it is."""
    if not hasattr(embedding, "shares_features"):
        return embedding
    learner: Any = embedding
    if not learner.shares_features():
        raise ConfigError(
            f"a {type(learner).__name__} shares no features among tasks that could be clustered: use one that does, "
            "such as ProtoNet, or a backbone"
        )
    return learner.features  # type: ignore[no-any-return]


def _checked(z: Any, n: int) -> NDArray[np.float32]:
    shape = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
    if not isinstance(z, Tensor) or z.ndim < 2 or len(z) != n:
        raise ConfigError(f"expected an embedding of {n} examples to be a tensor [{n}, d], got {shape}")
    return z.flatten(1).float().cpu().numpy()
