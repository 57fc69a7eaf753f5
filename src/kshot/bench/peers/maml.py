"""Every peer that does MAML, those that are not installed included."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from kshot.bench.peers import jax
from kshot.bench.peers.higher import Higher
from kshot.bench.peers.learn2learn import Learn2Learn
from kshot.bench.peers.loop import PlainLoop
from kshot.bench.peers.problem import MamlProblem, outer_loop
from kshot.bench.peers.torchopt import TorchOpt
from kshot.bench.workload import Contender, Missing

INSTALL = "pip install 'kshot[bench]'"


def peers(problem: MamlProblem, *, in_turn: bool = False) -> Iterator[Contender | Missing]:
    """The contenders that are not kshot.

    Args:
        in_turn: JAX twice, with tasks at once and in turn.
    """
    yield outer_loop(PlainLoop(problem), problem)
    for peer in (Higher, TorchOpt):
        if importlib.util.find_spec(peer.name) is None:
            yield Missing(peer.name, f"not installed: {INSTALL}")
        else:
            yield outer_loop(peer(problem), problem)
    if importlib.util.find_spec("learn2learn") is None:
        yield Missing("learn2learn", "not installed; it does not build with Python 3.11 or later")
    else:
        yield outer_loop(Learn2Learn(problem), problem)
    if importlib.util.find_spec("jax") is None:
        yield Missing("jax", f"not installed: {INSTALL}")
    elif not jax.reaches(problem.batches[0].device):
        yield Missing("jax", "the one that is installed has no GPU: pip install 'jax[cuda13]'")
    else:
        yield jax.contender(problem)
        if in_turn:
            yield jax.contender(problem, in_turn=True)
