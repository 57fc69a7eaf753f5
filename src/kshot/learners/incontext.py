"""A transformer that learns in context: the support set is its prompt (Mueller et al. 2022; Kirsch et al. 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.learners.context import ContextLearner
from kshot.models import MLP
from kshot.models.attention import MultiHeadAttention


class InContextTransformer(ContextLearner):
    """Support examples with their labels attend to each other, queries to them: no gradient at adaptation.

    Tokens are f(x_i) + g(y_i) and, for a query, f(x); in every layer (of one set of weights for both) the support's
    tokens attend to all of the support, a query to the support alone, so that queries never meet (as in prior-data
    fitted networks: Mueller, Hollmann, Pineda Arango, Grabocka, Hutter 2022, sec. 4, where a query attends to itself,
    too). Without positions: the order of the support does not matter, and it may be longer than in training.

    No one paper has it so: the attention is Mueller et al.'s; that a transformer is meta-trained to be a learner of its
    prompt, images and their labels among others, is Kirsch, Harrison, Sohl-Dickstein, Metz 2022.

    Args:
        backbone: features of an example, `[n, *shape] -> [n, d]`.
        way: classes (the most that a task may have); None for regression.
        size: of a token.
        layers: of attention and a two-layer network each, normalised first (pre-norm).
        heads: of attention.
        out_features: values of a target, for regression.

    Raises:
        UnsupportedError: a single class, no layer, or a number of heads that does not divide the size.
    """

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        size: int = 128,
        layers: int = 4,
        heads: int = 4,
        out_features: int = 1,
    ) -> None:
        super().__init__(backbone, way, out_features)
        if layers < 1:
            raise UnsupportedError(f"expected at least one layer, got {layers}")
        self.example = nn.Linear(int(backbone.out_features), size)  # type: ignore[arg-type]
        self.label = nn.Linear(self.labels, size, bias=False)
        self.layers = nn.ModuleList([Layer(size, heads) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, self.labels))

    def adapt(self, support: Examples) -> dict[str, Any]:  # type: ignore[override]
        z, y = self.pairs(support)
        tokens = self.example(z) + self.label(y)
        memories = []
        for layer in self.layers:
            memories.append(layer.remember(tokens))  # type: ignore[operator]
            tokens = layer(tokens, memories[-1], support.mask)
        return {"memories": memories, "mask": support.mask}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        tokens = self.example(x)
        for layer, memory in zip(self.layers, adapted["memories"], strict=True):
            tokens = layer(tokens, memory, adapted["mask"])
        out: Tensor = self.head(tokens)
        return out

    @classmethod
    def tiny(cls, kind: str = "classification") -> InContextTransformer:
        if kind == "regression":
            return cls(MLP(1, hidden=(32,), activation="tanh"), size=32, layers=2)
        return cls(MLP(8, hidden=(32,)), way=5, size=32, layers=2)


class Layer(nn.Module):
    """Attention over remembered tokens and a two-layer network, each added to what came in."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(size), MultiHeadAttention(size, heads)
        self.network = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)
        )

    def remember(self, tokens: Tensor) -> dict[str, Tensor]:
        """What other tokens may attend to of these `[..., n, size]`."""
        z = self.norm(tokens)
        return self.attention.remember(z, z)

    def forward(self, tokens: Tensor, memory: dict[str, Tensor], mask: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm(tokens), memory, mask)
        out: Tensor = tokens + self.network(tokens)
        return out
