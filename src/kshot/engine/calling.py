"""A function that uses a module, as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Calling(nn.Module):
    """Calls a function. `functional_call` on it replaces what the function sees of the module, whose parameters and
    buffers have the prefix `module.` here."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)
