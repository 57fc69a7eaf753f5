"""Graphs without transposed products compute what they did."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from kshot.engine.products import NARROW, oriented

aten = torch.ops.aten
TURNS = (aten.t.default, aten.transpose.int)


def traced(function, *inputs: Tensor) -> torch.fx.GraphModule:
    return make_fx(function, tracing_mode="fake")(*inputs)


def turned_products(graph: torch.fx.GraphModule) -> int:
    """Transposes of what is no input of a product: somebody would read across the rows."""
    products = (aten.mm.default, aten.bmm.default)
    return sum(
        node.target in TURNS and not all(user.target in products for user in node.users) for node in graph.graph.nodes
    )


def matrices(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


CASES = {
    "a product": (lambda a, b, c: (a @ b).mT * 2, 1),
    "a sum of two": (lambda a, b, c: (a @ b + 3 * (a @ b)).mT - c, 1),
    "twice over": (lambda a, b, c: (a @ b).mT.mT, 0),
    "of transposed arguments": (lambda a, b, c: (b.mT @ a.mT).mT + c.mT, 1),
    "with its negative": (lambda a, b, c: c + (-(a @ b) / 4).mT, 1),
}


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("case", CASES)
def test_products_are_not_turned(case: str, batch: tuple[int, ...]) -> None:
    function, before = CASES[case]
    inputs = matrices((*batch, 4, 5), (*batch, 5, 6), (*batch, 6, 4))
    graph = traced(function, *inputs)
    assert turned_products(graph) >= before
    expected = graph(*inputs)
    assert turned_products(oriented(graph)) == (1 if case == "of transposed arguments" else 0)
    torch.testing.assert_close(graph(*inputs), expected)


def test_what_others_use_as_it_is_stays() -> None:
    """A product that is read both ways is computed once."""
    inputs = matrices((4, 4), (4, 4))
    graph = traced(lambda a, b: (a @ b) + (a @ b).mT, *inputs)
    shared = traced(lambda a, b: (lambda p: p + p.mT)(a @ b), *inputs)
    for one, products in ((graph, 2), (shared, 1)):
        expected = one(*inputs)
        oriented(one)
        assert sum(node.target is aten.mm.default for node in one.graph.nodes) == products
        torch.testing.assert_close(one(*inputs), expected)


@given(
    st.recursive(
        st.sampled_from("ab"),
        lambda inner: st.tuples(st.sampled_from(("matmul", "add", "sub", "turn", "neg", "double")), inner, inner),
        max_leaves=12,
    )
)
def test_any_expression(tree) -> None:
    def value(tree, a: Tensor, b: Tensor) -> Tensor:
        if isinstance(tree, str):
            return a if tree == "a" else b
        what, left, right = tree
        x, y = value(left, a, b), value(right, a, b)
        made = {"matmul": lambda: x @ y, "add": lambda: x + y, "sub": lambda: x - y.mT}
        return made.get(what, {"turn": lambda: x.mT, "neg": lambda: -x, "double": lambda: 2 * x}.get(what))()

    inputs = matrices((3, 3), (3, 3))
    graph = traced(lambda a, b: value(tree, a, b), *inputs)
    expected = graph(*inputs)
    torch.testing.assert_close(oriented(graph)(*inputs), expected)


@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 30), st.booleans(), st.booleans())
def test_narrow_products_are_turned_over(columns: int, rows: int, depth: int, left: bool, right: bool) -> None:
    """The same numbers, lying as they did, and a product with few rows in place of one with few columns."""
    a, b = matrices(
        (3, depth, rows) if left else (3, rows, depth), (3, columns, depth) if right else (3, depth, columns)
    )

    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        product = (a.mT if left else a) @ (b.mT if right else b)
        return [product, product.view(-1)]  # a view counts on how the product lies

    graph = traced(function, a, b)
    expected = graph(a, b)
    found = oriented(graph)(a, b)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert one.stride() == other.stride()
    shapes = [tuple(n.meta["val"].shape[1:]) for n in graph.graph.nodes if n.target is aten.bmm.default]
    assert shapes == ([(columns, rows)] if columns <= NARROW < rows else [(rows, columns)])
