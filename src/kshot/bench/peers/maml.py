"""Every peer that does MAML, those that are not installed included."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator

from kshot.bench.peers import jax
from kshot.bench.peers.higher import Higher
from kshot.bench.peers.learn2learn import Learn2Learn
from kshot.bench.peers.loop import PlainLoop
from kshot.bench.peers.problem import MamlProblem, Peer, outer_loop
from kshot.bench.peers.torchopt import TorchOpt
from kshot.bench.workload import Contender, Missing

INSTALL = "pip install 'kshot[bench]'"


def absent(package: str, hint: str = f": {INSTALL}") -> str | None:
    """Why a package cannot be used; None where it can.

    Args:
        hint: what is said of one that is not installed.
    """
    if importlib.util.find_spec(package) is None:
        return f"not installed{hint}"
    try:
        importlib.import_module(package)
    except Exception as error:  # whatever one that does not fit the others fails with: it costs its own row, no more
        return f"installed, but cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
    return None


def peers(problem: MamlProblem, *, in_turn: bool = False) -> Iterator[Contender | Missing]:
    """The contenders that are not kshot.

    Args:
        in_turn: JAX twice, with tasks at once and in turn.
    """
    yield outer_loop(PlainLoop(problem), problem)
    libraries: list[tuple[Callable[[MamlProblem], Peer], str, str]] = [
        (Higher, "higher", f": {INSTALL}"),
        (TorchOpt, "torchopt", f": {INSTALL}"),
        (Learn2Learn, "learn2learn", "; it does not build with Python 3.11 or later"),
    ]
    for make, name, hint in libraries:
        why = absent(name, hint)
        yield outer_loop(make(problem), problem) if why is None else Missing(name, why)
    why = absent("jax") or jax.absent(problem.batches[0].device)
    for turns in (False, True) if in_turn else (False,):
        if why is None:
            yield jax.contender(problem, in_turn=turns)
        else:
            yield Missing(jax.name(turns), why)
