"""`compile`: a function of one task, mapped over many and compiled with its gradient into one graph for each shape.

What runs is traced once, forward and backward together, below autograd and `vmap`: whatever Python the hooks are
written in is gone by then, inner loops and their gradients included, and inductor fuses across all of it. There are no
guards to be checked at each call as with `torch.compile`; what a graph depends on is in its key instead.

Parameters and buffers are inputs of the graph, so training moves them without a new one. What Python decides, it
decides while it is traced: the plain attributes of the learner's modules (inner steps, order, training or not) are part
of the key.
"""

from __future__ import annotations

import contextlib
import functools
import math
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from kshot.engine.calling import Calling
from kshot.engine.cuda_graphs import Replayed, quicker
from kshot.engine.products import oriented
from kshot.errors import UnsupportedError

_backend = "inductor"
_tracing = threading.Lock()

ROUNDING = {torch.float64: 1e-6, torch.float32: 2e-2}
"""Relative difference of two meta-gradients that rounding explains: it moves a few inputs over a ReLU's or a maximum's
kink, 6e-4 for Conv-4 MAML in float32; a miscompiled gradient is off by about its own size."""
COARSE = 0.2
"""The same in half precision, where no more was measured (`unexplained`)."""
OF_ONE, NEXT_TO_NOTHING = 5, 1e-2
"""A single tensor's difference may be so many times that of all; one that is smaller than a share of all is held
against that share."""
MOST = 0.5
"""How far from full precision half precision may be: a gradient in another direction is off by its own size or more."""


@contextlib.contextmanager
def compile_backend(name: str) -> Iterator[None]:
    """Compiles otherwise inside the context: `"eager"` runs the traced graph as it is, which needs no C++ compiler."""
    global _backend
    if name not in ("inductor", "eager"):
        raise UnsupportedError(f"expected the backend inductor or eager, got {name!r}")
    before, _backend = _backend, name
    try:
        yield
    finally:
        _backend = before


_UNKNOWN: Any = object()


class CompileWarning(UserWarning):
    """A graph could not be compiled, or computed something else: what it stands for runs uncompiled.

    Attributes:
        reason: why, in a line.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} runs uncompiled, as mode vmap does: {reason}")
        self.reason = reason


@dataclass
class Graph:
    """What runs for inputs of one shape.

    Attributes:
        run: from the flat inputs to the flat outputs and the gradients that there are.
        outputs: how many outputs there are.
        structure: theirs.
        differentiated: which of the inputs the gradients are of.
    """

    run: Callable[..., Sequence[Tensor]]
    outputs: int
    structure: pytree.TreeSpec
    differentiated: list[int]


class Compiled:
    """A single-task function of a learner, over many tasks at once, compiled.

    Where a shape cannot be compiled, `vmap` runs it, and a `CompileWarning` says why.

    Args:
        learner: the module whose parameters and buffers the function uses.
        function: of one task's pytrees of tensors; returns a pytree of tensors.
    """

    def __init__(self, learner: nn.Module, function: Callable[..., Any]) -> None:
        self.learner = learner
        self.mapped = torch.vmap(function, randomness="different")
        self._look()

    def _look(self) -> None:
        """Finds the learner's modules, and where their parameters and buffers are: what is there may be replaced, by
        another of its kind."""
        self._graphs: dict[Any, Graph | None] = {}
        self._modules = list(self.learner.modules())
        self._made_of = _made_of(self._modules)
        self._parameters = _places(self._modules, "_parameters")
        self._buffers = _places(self._modules, "_buffers")

    def __call__(self, *arguments: Any) -> Any:
        """The function of every task, differentiable in the learner's parameters and in the arguments.

        The backward pass runs the function again, in the graph that holds both; `with_gradients` runs it once.
        """
        leaves, spec = _flat(arguments)
        values = self._values()
        differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (*values, *leaves))
        graph = self._graph(values, leaves, spec, None)
        if graph is None:
            return self.mapped(*arguments)
        if differentiable:
            flat = _Differentiable.apply(self, graph, spec, len(values), *values, *leaves)  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                flat = graph.run(*values, *leaves)
        return pytree.tree_unflatten(list(flat), graph.structure)

    def with_gradients(
        self, arguments: tuple[Any, ...], cotangents: Sequence[Tensor]
    ) -> tuple[Any, list[Tensor | None], list[Tensor | None]] | None:
        """The function of every task, and the gradient of `sum(cotangent * output)` in all that it depends on.

        Args:
            arguments: of the function, for all tasks.
            cotangents: one for each tensor that the function returns, of its shape.

        Returns:
            The outputs; the gradients of the learner's parameters, in their order; those of the leaves of the
            arguments. None where it cannot be compiled.
        """
        leaves, spec = _flat(arguments)
        values = self._values()
        graph = self._graph(values, leaves, spec, cotangents)
        if graph is None:
            return None
        with torch.no_grad():
            flat = graph.run(*values, *leaves, *cotangents)
        gradients: list[Tensor | None] = [None] * (len(values) + len(leaves))
        for i, gradient in zip(graph.differentiated, flat[graph.outputs :], strict=True):
            gradients[i] = gradient
        outputs = pytree.tree_unflatten(list(flat[: graph.outputs]), graph.structure)
        return outputs, gradients[: len(values)], gradients[len(values) :]

    def _values(self) -> list[Tensor]:
        if _made_of(self._modules) != self._made_of:  # a layer was replaced: graphs of the old one are of no use
            self._look()
        return [kept[name] for kept, name in (*self._parameters, *self._buffers)]

    def _graph(
        self, values: list[Tensor], leaves: list[Tensor], spec: pytree.TreeSpec, cotangents: Sequence[Tensor] | None
    ) -> Graph | None:
        """The graph for these inputs, traced and compiled where there is none; with gradients where there are
        cotangents."""
        joint = cotangents is not None
        device = leaves[0].device.type
        key = (
            joint,
            _backend,
            spec,
            tuple(_kind(t) for t in leaves),
            tuple(v.requires_grad for v in values) if joint else None,
            _state(self._modules),
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
            values[0].dtype if values else None,
            device,
        )
        graph: Graph | None = self._graphs.get(key, _UNKNOWN)
        if graph is _UNKNOWN:
            with _tracing:
                if key not in self._graphs:
                    self._graphs[key] = self._compile(values, leaves, spec, cotangents)
                graph = self._graphs[key]
        return graph

    def _compile(
        self, values: list[Tensor], leaves: list[Tensor], spec: pytree.TreeSpec, cotangents: Sequence[Tensor] | None
    ) -> Graph | None:
        name = type(self.learner).__name__
        try:
            return compile_graph(
                *self._trace(values, leaves, spec, cotangents),
                lambda: self._precisely(values, leaves, spec, cotangents),
            )
        except Exception as error:  # whatever the compiler met: the same runs without it
            warnings.warn(CompileWarning(name, reason(error)), stacklevel=5)
            return None

    def _precisely(
        self, values: list[Tensor], leaves: list[Tensor], spec: pytree.TreeSpec, cotangents: Sequence[Tensor] | None
    ) -> Sequence[Tensor]:
        """What a graph of these inputs computes without autocast, uncompiled."""
        with torch.autocast(leaves[0].device.type, enabled=False):
            traced, _, inputs = self._trace(values, leaves, spec, cotangents)
            made: Sequence[Tensor] = traced(*inputs)
        return made

    def _trace(
        self, values: list[Tensor], leaves: list[Tensor], spec: pytree.TreeSpec, cotangents: Sequence[Tensor] | None
    ) -> tuple[torch.fx.GraphModule, Graph, list[Tensor]]:
        """The traced graph, what it stands for, and inputs to compile it with."""
        from torch.fx.experimental.proxy_tensor import make_fx

        names = [name for name, _ in (*self.learner.named_parameters(), *self.learner.named_buffers())]
        names = [f"module.{name}" for name in names]
        inputs = [*values, *leaves, *(cotangents or ())]
        wanted = [t.requires_grad for t in (*values, *leaves)]
        calling = Calling(self.learner, self.mapped)
        found = Graph(lambda *_: (), 0, spec, [])

        def outputs(*flat: Tensor) -> list[Tensor]:
            given = dict(zip(names, flat, strict=False))
            made = functional_call(calling, given, tuple(pytree.tree_unflatten(list(flat[len(values) :]), spec)))
            tensors, found.structure = pytree.tree_flatten(made)
            found.outputs = len(tensors)
            return tensors

        def joint(*flat: Tensor) -> list[Tensor]:
            number = len(wanted)
            with torch.enable_grad():
                own = [t.detach().requires_grad_() if w else t for t, w in zip(flat, wanted, strict=False)]
                made = outputs(*own)
                pairs = [(o, c) for o, c in zip(made, flat[number:], strict=True) if o.requires_grad]
                wants = [i for i, w in enumerate(wanted) if w]
                gradients = (
                    torch.autograd.grad(
                        [o for o, _ in pairs], [own[i] for i in wants], [c for _, c in pairs], allow_unused=True
                    )
                    if pairs
                    else []
                )
            known = [(i, g) for i, g in zip(wants, gradients, strict=False) if g is not None]
            found.differentiated = [i for i, _ in known]
            return [o.detach() for o in made] + [g for _, g in known]

        with _compiling(), torch.no_grad():
            detached = [t.detach() for t in inputs]
            function = outputs if cotangents is None else joint
            traced = make_fx(function, decomposition_table=_THIN, tracing_mode="fake")(*detached)
        return oriented(traced), found, detached


def compile_graph(
    traced: torch.fx.GraphModule, graph: Graph, inputs: list[Tensor], precise: Callable[[], Sequence[Tensor]]
) -> Graph:
    """Compiles what was traced, and compares what it computes of the inputs.

    Args:
        precise: the same of the inputs in full precision, uncompiled.

    Raises:
        UnsupportedError: the compiled graph computes something else than the traced one.
    """
    if _backend == "eager":
        graph.run = traced
        return graph
    from torch._inductor import compile as inductor

    draws = any(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in traced.graph.nodes)
    with torch.no_grad():
        expected = None if draws else traced(*inputs)
        compiled = inductor(traced, list(inputs))
        device = inputs[0].device
        if device.type == "cuda" and not draws:
            wait = functools.partial(torch.cuda.synchronize, device)
            compiled = quicker(compiled, lambda: Replayed(compiled, inputs), inputs, wait)
        graph.run = compiled
        if expected is not None:
            check_same(compiled(*inputs), expected, precise)
    return graph


def check_same(found: Sequence[Tensor], expected: Sequence[Tensor], precise: Callable[[], Sequence[Tensor]]) -> None:
    """Compares what a compiled graph computes with what it should.

    Args:
        precise: the outputs in full precision; called where half precision makes a large difference.

    Raises:
        UnsupportedError: they differ by more than rounding explains.
    """
    error = unexplained(found, expected, precise)
    if error is not None:
        raise UnsupportedError(f"inductor (torch {torch.__version__}) computes something else, off by {error:.1e}")


def unexplained(
    found: Sequence[Tensor], expected: Sequence[Tensor], precise: Callable[[], Sequence[Tensor]]
) -> float | None:
    """The relative difference of two lists of tensors, where rounding does not explain it; None where it does.

    All tensors count together, and in full precision each of them, too, unless it is next to nothing: the gradient of a
    bias before a normalisation is nothing but rounding. Where what is expected is not finite, nothing can be said.

    In half precision a deep gradient is off by a third of its size, compiled or not, and not by the same: what
    is compiled may then be half as far again from full precision as what is not.
    """
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if b.is_floating_point() and b.numel()]
    if not pairs or not all(bool(torch.isfinite(b).all()) for _, b in pairs):
        return None
    half = torch.is_autocast_enabled(pairs[0][1].device.type) or any(b.dtype not in ROUNDING for _, b in pairs)
    error = _relative(pairs)
    if half:
        if not COARSE < error <= 2 * MOST:
            return None if error <= COARSE else error
        exact = [e for e, b in zip(precise(), expected, strict=True) if b.is_floating_point() and b.numel()]
        own, rounding = (_relative(list(zip(column, exact, strict=True))) for column in zip(*pairs, strict=True))
        return None if own <= min(MOST, 1.5 * rounding) else error
    limit = max(ROUNDING[b.dtype] for _, b in pairs)
    if not error <= limit:
        return error
    least = NEXT_TO_NOTHING * math.hypot(*(float(b.norm()) for _, b in pairs))
    each = max(float((a - b).norm()) / max(float(b.norm()), least, 1e-30) for a, b in pairs)
    return None if each <= OF_ONE * limit else each


def _relative(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """How far all first tensors together are from the second ones."""
    a, b = (torch.cat([t.double().flatten() for t in column]) for column in zip(*pairs, strict=True))
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def _thin(a: Tensor, b: Tensor) -> Any:
    """A product, batched or not, of which one side is a vector, as multiplications that are fused with what is around
    them."""
    if a.shape[-1] == 1:
        return a * b
    if b.shape[-1] == 1:
        return (a * b.mT).sum(-1, keepdim=True)
    if a.shape[-2] == 1:
        return (a.mT * b).sum(-2, keepdim=True)
    return NotImplemented


_THIN: Any = {torch.ops.aten.bmm.default: _thin, torch.ops.aten.mm.default: _thin}


def reason(error: Exception) -> str:
    """An error in a line of a few hundred characters."""
    if isinstance(error, CompileWarning):
        return error.reason
    text = textwrap.shorten(str(error), 300, placeholder=" ...")
    return text if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {text}"


class _Differentiable(torch.autograd.Function):
    """The outputs of a graph; its backward pass is the graph that has the gradients, too."""

    @staticmethod
    def forward(
        ctx: Any, compiled: Compiled, graph: Graph, spec: pytree.TreeSpec, number: int, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.compiled, ctx.spec, ctx.number = compiled, spec, number
        ctx.autocast = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _devices(inputs)]
        ctx.save_for_backward(*inputs)
        made = tuple(graph.run(*[t.detach() for t in inputs]))
        ctx.mark_non_differentiable(*[t for t in made if not t.is_floating_point()])
        return made

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # a part of the second derivative would be missing in silence
            raise UnsupportedError("mode='compile' has no second derivative (create_graph=True): use mode='vmap'")
        inputs = ctx.saved_tensors
        values, leaves = list(inputs[: ctx.number]), list(inputs[ctx.number :])
        with contextlib.ExitStack() as stack:
            for device, enabled, dtype in ctx.autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False))
            graph = ctx.compiled._graph(values, leaves, ctx.spec, cotangents)
            if graph is None:
                raise UnsupportedError("the gradient cannot be compiled: use mode='vmap'")
            flat = graph.run(*[t.detach() for t in inputs], *cotangents)
        found: list[Tensor | None] = [None] * len(inputs)
        for i, gradient in zip(graph.differentiated, flat[graph.outputs :], strict=True):
            found[i] = gradient
        return None, None, None, None, *found


def _devices(inputs: Sequence[Tensor]) -> list[str]:
    return sorted({t.device.type for t in inputs})


def _flat(arguments: tuple[Any, ...]) -> tuple[list[Tensor], pytree.TreeSpec]:
    """The leaves, each of which lies in memory in order: parts of a larger batch do not."""
    leaves, spec = pytree.tree_flatten(arguments)
    return [t.contiguous() for t in leaves], spec


def _kind(t: Tensor) -> tuple[Any, ...]:
    """What a graph depends on of an input: its shape, its type, and whether its gradient is wanted."""
    return t.shape, t.dtype, t.requires_grad


_PLAIN = frozenset((bool, int, float, str, type(None)))
_LISTS = frozenset((list, tuple))


def _state(modules: list[nn.Module]) -> tuple[Any, ...]:
    """What Python code may decide by: the plain attributes of modules, and lists of them."""
    found: list[Any] = []
    for module in modules:
        for value in vars(module).values():
            kind = type(value)
            if kind in _PLAIN:
                found.append(value)
            elif kind in _LISTS:
                found.append(_plain(value))
    return tuple(found)


def _plain(value: Any) -> Any:
    if type(value) in _LISTS:
        return tuple([_plain(one) for one in value])
    return value if type(value) in _PLAIN else id(value)


def _made_of(modules: list[nn.Module]) -> list[Any]:
    """Which modules these consist of, and how many parameters and buffers each has."""
    found: list[Any] = []
    for module in modules:
        content = vars(module)
        found.extend(map(id, content["_modules"].values()))
        found += (len(content["_parameters"]), len(content["_buffers"]))
    return found


def _places(modules: list[nn.Module], kind: str) -> list[tuple[dict[str, Tensor], str]]:
    """The dictionaries and keys of all parameters (or buffers) of modules, in the order of `parameters()`."""
    found: dict[int, tuple[dict[str, Tensor], str]] = {}
    for module in modules:
        for name, value in vars(module)[kind].items():
            if value is not None:
                found.setdefault(id(value), (vars(module)[kind], name))
    return list(found.values())


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """`torch.compiler.is_compiling()` says so inside the context."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before
