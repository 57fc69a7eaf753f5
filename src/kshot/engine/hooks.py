"""What the engine needs of a learner; `kshot.Learner` is the implementation."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from kshot.engine.fits import Limits
from kshot.episodes import Examples, Input


class Hooks(Limits, Protocol):
    """The author's side of the protocol, one task at a time (see `kshot.Learner`)."""

    training: bool
    native: bool
    native_predict: bool
    unrolls: bool
    sequential: bool
    semi_supervised: bool
    modes: tuple[str, ...]
    outputs: Any

    def features(self, x: Any) -> Any: ...

    def adapt(self, support: Examples, **options: Any) -> Any: ...

    def predict(self, adapted: Any, x: Any) -> Any: ...

    def objective(self, support: Examples, query: Examples) -> Tensor: ...

    def predict_with_mask(self, adapted: Any, query: Examples) -> Any: ...

    def shares_features(self) -> bool: ...

    def modules(self) -> Any: ...

    def parameters(self) -> Any: ...

    def buffers(self) -> Any: ...


def as_module(learner: Hooks) -> nn.Module:
    assert isinstance(learner, nn.Module)
    return learner


__all__ = ["Hooks", "Input", "as_module"]
