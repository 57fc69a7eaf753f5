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
from kshot.engine.transposes import without_transposes
from kshot.errors import UnsupportedError

_backend = "inductor"
_tracing = threading.Lock()

ROUNDING = {torch.float64: 1e-6, torch.float32: 2e-2}
"""Relative difference of two meta-gradients that rounding explains: it moves a few inputs over a ReLU's or a maximum's
kink, 6e-4 for Conv-4 MAML in float32; a miscompiled gradient is off by about its own size."""
COARSE = 0.2
"""The same in half precision."""


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
        self._graphs: dict[Any, Graph | None] = {}
        self._modules = list(learner.modules())
        # Where parameters and buffers are found: what is there may be replaced, by another of its kind.
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
            return compile_graph(*self._trace(values, leaves, spec, cotangents))
        except Exception as error:  # whatever the compiler met: the same runs without it
            warnings.warn(CompileWarning(name, reason(error)), stacklevel=5)
            return None

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
        return without_transposes(traced), found, detached


def compile_graph(traced: torch.fx.GraphModule, graph: Graph, inputs: list[Tensor]) -> Graph:
    """Compiles what was traced, and compares what it computes of the inputs.

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
        if inputs and inputs[0].device.type == "cuda":
            compiled = quicker(compiled, lambda: Replayed(compiled, inputs), inputs, torch.cuda.synchronize)
        graph.run = compiled
        if expected is not None:
            check_same(compiled(*inputs), expected)
    return graph


def check_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raises UnsupportedError where two lists of tensors differ by more than rounding explains."""
    floats = [(a, b) for a, b in zip(found, expected, strict=True) if b.is_floating_point() and b.numel()]
    if not floats:
        return
    # All together: the gradient of one bias may be nothing but rounding.
    a, b = (torch.cat([t.double().flatten() for t in column]) for column in zip(*floats, strict=True))
    if not bool(torch.isfinite(b).all()):
        return
    error = float((a - b).norm() / b.norm().clamp(min=1e-30))
    coarsest = max((ROUNDING.get(t.dtype, COARSE) for _, t in floats))
    if torch.is_autocast_enabled(floats[0][0].device.type):
        coarsest = COARSE
    if not error <= coarsest:
        raise UnsupportedError(f"inductor (torch {torch.__version__}) computes something else, off by {error:.1e}")


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


def _state(modules: list[nn.Module]) -> tuple[Any, ...]:
    """What Python code may decide by: the plain attributes of modules."""
    return tuple([v for module in modules for v in vars(module).values() if type(v) in _PLAIN])


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
