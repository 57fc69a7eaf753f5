"""Products of matrices in a traced graph, in the orientation that is quickest.

A linear layer's gradient comes as a product that is transposed; where it is added to one that is not, the compiled loop
reads one of the two across its rows, which took more of MAML's inner steps on a small network than anything but the
products themselves. The transpose of a product is the product of transposes, whose order BLAS is told in a flag:
without these turns a step of sinusoid MAML with five inner steps takes 0.6 of its time.

Many small products with few columns, as heads of five classes have, are two to six times as slow on a CPU as the same
with few rows: these are turned over at last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

aten: Any = torch.ops.aten

NARROW = 12
"""Columns up to which a batched product is quicker turned over, on a CPU: 64 of 75 x 64 and 64 x 5 take 401 us in place
of 92, and of 64 x 8 3.2 times as long; with 16 columns it is no matter."""

_VIEWS = frozenset((aten._unsafe_view.default, aten.view.default, aten.expand.default))
_PRODUCTS = frozenset((aten.bmm.default, aten.mm.default))
_ELEMENTWISE = frozenset(
    (
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.mul.Scalar,
        aten.div.Tensor,
        aten.div.Scalar,
        aten.neg.default,
    )
)


def oriented(traced: GraphModule) -> GraphModule:
    """Rewrites a graph of tensor operators, in place: no product of matrices is transposed, but narrow ones are.

    What it computes stays the same but for rounding: BLAS may add up the terms of a product in another order.

    Args:
        traced: by `make_fx`, with the tensors' shapes.
    """
    _drop_idle_views(traced)
    _merge(traced)
    graph = traced.graph
    for node in reversed(list(graph.nodes)):
        if _is_transpose(node) and _turns(node.args[0]):
            with graph.inserting_before(node):
                node.replace_all_uses_with(_turned(node.args[0]))
    _turn_narrow(traced)
    graph.eliminate_dead_code()
    graph.lint()
    traced.recompile()
    return traced


def _turns(node: Any) -> bool:
    """Whether the transpose of a node costs nothing. It is to be used by nobody else: it would be computed twice."""
    if _is_transpose(node):
        return True
    if not isinstance(node, Node) or len(node.users) > 1:
        return False
    if node.target in _PRODUCTS:
        return True
    matrices = [arg for arg in node.args if isinstance(arg, Node)]
    return (
        node.target in _ELEMENTWISE
        and not node.kwargs
        and all(_shape(arg) == _shape(node) for arg in matrices)
        and all(_turns(arg) for arg in matrices)
    )


def _turned(node: Node) -> Node:
    """A node that computes the transpose of another."""
    graph = node.graph
    if _is_transpose(node):
        return node.args[0]  # type: ignore[return-value]
    if node.target in _PRODUCTS:
        args = [arg.args[0] if _is_transpose(arg) else _transpose(arg) for arg in reversed(node.args)]  # type: ignore[union-attr]
    else:
        args = [_turned(arg) if isinstance(arg, Node) else arg for arg in node.args]
    made = graph.call_function(node.target, tuple(args))  # type: ignore[arg-type]
    made.meta["val"] = node.meta["val"].mT.contiguous()
    return made


def _turn_narrow(traced: GraphModule) -> None:
    """Batched products with few columns become transposes of products with few rows."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.target is not aten.bmm.default or node.meta["val"].device.type != "cpu":
            continue
        rows, columns = _shape(node)[-2:]
        if not columns <= NARROW < rows:
            continue
        with graph.inserting_before(node):
            turned = _transpose(_turned(node))
            # As it lay before: views that were traced behind it count on that.
            same = graph.call_function(aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
        same.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(same)
        graph.erase_node(node)


def _transpose(node: Any) -> Node:
    made: Node = node.graph.call_function(aten.transpose.int, (node, -2, -1))
    made.meta["val"] = node.meta["val"].mT
    return made


def _is_transpose(node: Any) -> bool:
    """Whether a node turns the matrices in its argument's last two dimensions over."""
    if not isinstance(node, Node) or node.target not in (aten.t.default, aten.transpose.int):
        return False
    number = len(_shape(node))
    dimensions = node.args[1:] or (0, 1)
    return number >= 2 and {int(d) % number for d in dimensions} == {number - 1, number - 2}  # type: ignore[arg-type]


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _drop_idle_views(traced: GraphModule) -> None:
    """Views of the shape that there was, which stand between a product and its transpose."""
    for node in list(traced.graph.nodes):
        if node.target in _VIEWS and _shape(node) == _shape(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _merge(traced: GraphModule) -> None:
    """One transpose of each node; of one that was transposed, none."""
    known: dict[Node, Node] = {}
    for node in list(traced.graph.nodes):
        if not _is_transpose(node):
            continue
        source = node.args[0]
        same = source.args[0] if _is_transpose(source) else known.setdefault(source, node)
        if same is not node:
            node.replace_all_uses_with(same)
            traced.graph.erase_node(node)
