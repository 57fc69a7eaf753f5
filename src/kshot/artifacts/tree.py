"""A pytree as named tensors and a JSON document, and back.

What `adapt` returns is nested dicts, lists and tuples of tensors, and may hold an `Examples` (learners that keep their
support set). Numbers, strings and None are leaves as well, so that the JSON document of a learner that calls out (a
prompt, say) is a tree like any other.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from kshot.episodes import Examples, Unlabeled
from kshot.errors import ArtifactError


def flatten(tree: Any, prefix: str = "adapted") -> tuple[Any, dict[str, Tensor]]:
    """The JSON-able shape of a tree, and its tensors by a name that says where each one was.

    Raises:
        ArtifactError: the tree holds something else than dicts, lists, tuples, `Examples`, tensors and JSON values.

    >>> import torch
    >>> shape, tensors = flatten({"head": [torch.zeros(2), None]})
    >>> shape
    {'dict': [['head', {'list': [{'tensor': 'adapted.head.0'}, {'value': None}]}]]}
    >>> list(tensors)
    ['adapted.head.0']
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(tree, prefix, tensors), tensors


def _flatten(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        return _add(node, name, tensors)
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise ArtifactError(f"expected the keys of {name} to be strings or integers, got {key!r}")
        return {"dict": [[key, _flatten(value, f"{name}.{key}", tensors)] for key, value in node.items()]}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_flatten(value, f"{name}.{i}", tensors) for i, value in enumerate(node)]}
    if isinstance(node, Examples):
        fields = {key: getattr(node, key) for key in ("x", "y", "mask", "classes", "padded")}
        if node.unlabeled is not None:
            fields["unlabeled"] = node.unlabeled
        return {"examples": _flatten(fields, name, tensors)}
    if isinstance(node, Unlabeled):
        return {"unlabeled": _flatten({key: getattr(node, key) for key in ("x", "mask", "padded")}, name, tensors)}
    if isinstance(node, float) and not math.isfinite(node):
        return {"float": repr(float(node))}  # JSON has no NaN
    if node is None or type(node) in (bool, int, float, str):
        return {"value": node}
    raise ArtifactError(
        f"expected what adapt returns to be dicts, lists and tuples of tensors (or JSON values), got a "
        f"{type(node).__module__}.{type(node).__qualname__} at {name}"
    )


def _add(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
        name += "'"
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda dim: -strides[dim])
    if tensor.is_contiguous() or not tensor.permute(order).is_contiguous():
        tensors[name] = tensor
        return {"tensor": name}
    # A transposed tensor comes back transposed: a matrix product may round differently over another memory layout.
    tensors[name] = tensor.permute(order)
    return {"tensor": name, "order": order}


def unflatten(shape: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree that `flatten` took apart.

    Raises:
        ArtifactError: the shape is damaged, or names a tensor that is not there.
    """
    try:
        return _unflatten(shape, tensors)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        raise ArtifactError(
            f"the description of the adapted state is damaged ({type(error).__name__}: {error})"
        ) from error


def _unflatten(shape: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    kind = next(iter(shape))
    value = shape[kind]
    if kind == "tensor":
        tensor = tensors[value]
        if "order" not in shape:
            return tensor
        return tensor.permute(sorted(range(tensor.ndim), key=lambda dim: shape["order"][dim]))
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in value}
    if kind in ("list", "tuple"):
        items = [_unflatten(item, tensors) for item in value]
        return items if kind == "list" else tuple(items)
    if kind == "examples":
        return Examples(**_unflatten(value, tensors))
    if kind == "unlabeled":
        return Unlabeled(**_unflatten(value, tensors))
    if kind == "float":
        return float(value)
    if kind == "value":
        return value
    raise ArtifactError(f"the adapted state holds a node of kind {kind!r}, which this version of kshot does not know")
