"""How long it takes until a program can begin: imports, each in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator

from kshot.bench.peers.maml import INSTALL
from kshot.bench.workload import Contender, Missing, Workload

VERSION = "import sys; from kshot.cli import main; sys.argv[1:] = ['--version']; main()"


class StartUp(Workload):
    """Imports of kshot, of the learners within it, and of its peers. They compute nothing that could be counted."""

    name = "start-up"
    title = "Imports in a fresh interpreter"
    unit = "starts"
    reference = "import torch"

    def contenders(self) -> Iterator[Contender | Missing]:
        yield Contender("import torch", _running("import torch"))
        yield Contender("kshot --version", _running(VERSION), ours=True)
        yield Contender("import kshot; kshot.MAML", _running("import kshot; kshot.MAML"), ours=True)
        for peer in ("higher", "torchopt", "jax"):
            name = f"import {peer}"
            if importlib.util.find_spec(peer) is None:
                yield Missing(name, f"not installed: {INSTALL}")
            elif (failed := _run(name)).returncode:
                last = failed.stderr.strip().rpartition("\n")[2]
                yield Missing(name, f"installed, but cannot be imported ({last})")
            else:
                yield Contender(name, _running(name))


def _running(code: str) -> Callable[[], object]:
    return lambda: _run(code).check_returncode()


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
