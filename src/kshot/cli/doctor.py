"""`kshot doctor`: what this machine offers, and what would make it better."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kshot.cli.options import DataDir, Json, examples
from kshot.cli.output import Output

EXAMPLES = examples("kshot doctor", "kshot doctor --json")

EXTRAS = {
    "serve": ("fastapi", "uvicorn", "sqlalchemy", "psycopg"),
    "bench": ("higher", "torchopt", "jax"),
    "sweep": ("optuna",),
    "track": ("tensorboard", "wandb", "mlflow"),
    "docs": ("mkdocs", "mkdocstrings"),
    "dev": ("pytest", "hypothesis", "ruff", "mypy"),
}
LOW_DISK = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is well, what was found, and what to do where it is not."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def command(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Look at this machine: versions, threads, compiler, data, cache, extras, memory allocator, disk."""
    output = Output(as_json)
    with output.alone():
        findings = examine(data_dir)
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            output.say(f"{'ok  ' if finding.ok else 'look'}  {finding.name.ljust(width)}  {finding.found}")
            if finding.advice:
                output.say(f"      {' ' * width}  -> {finding.advice}")
        unwell = sum(not finding.ok for finding in findings)
        output.say(f"{unwell} thing{'' if unwell == 1 else 's'} to look at." if unwell else "All is well.")
        output.result([vars(finding) for finding in findings])


def examine(data_dir: Path | None = None) -> list[Finding]:
    """Everything that is looked at. A check that itself fails is a finding, not an error."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("torch", _torch),
        ("accelerator", _accelerator),
        ("threads", _threads),
        ("compiler", _compiler),
        ("allocator", _allocator),
        ("data", lambda: _data(data_dir)),
        ("cache", _cache),
        ("extras", _extras),
        ("disk", _disk),
    ]
    findings = []
    for name, check in checks:
        try:
            findings.append(check())
        except Exception as error:
            findings.append(Finding(name, False, f"could not be examined: {type(error).__name__}: {error}"))
    return findings


def _python() -> Finding:
    from kshot import __version__

    found = f"{platform.python_version()} at {sys.executable}, kshot {__version__}, {platform.platform()}"
    ok = sys.version_info >= (3, 10)
    return Finding("python", ok, found, "" if ok else "Install Python 3.10 or newer.")


def _torch() -> Finding:
    import torch

    version = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in torch.__version__.split(".")[:2])
    ok = version >= (2, 11)
    return Finding("torch", ok, torch.__version__, "" if ok else "pip install -U 'torch>=2.11'")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        found = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("accelerator", True, found)
    if torch.backends.mps.is_available():
        return Finding("accelerator", True, "Apple GPU (mps)")
    return Finding("accelerator", True, "none: everything runs on the CPU")


def _threads() -> Finding:
    import torch

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found = f"torch uses {threads}, {available} available to this process"
    limits = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    if threads > available:
        return Finding("threads", False, found, f"More threads than cores are slower: OMP_NUM_THREADS={available}")
    if threads < available and limits:
        return Finding("threads", True, found, f"{limits[0]} limits it; unset it to use all cores.")
    return Finding("threads", True, found)


def _compiler() -> Finding:
    from kshot.engine.auto import has_compiler

    if has_compiler():
        path = next(path for path in map(shutil.which, ("g++", "clang++", "c++")) if path)
        return Finding("compiler", True, f"{path}: mode compile works on the CPU")
    return Finding(
        "compiler",
        True,
        "no C++ compiler: mode auto leaves compile out",
        "Small networks on the CPU train several times faster with one: apt install g++ (or your system's package).",
    )


def _allocator() -> Finding:
    from kshot.cli.allocator import describe

    return Finding("allocator", True, describe())


def _data(data_dir: Path | None) -> Finding:
    from kshot import datasets

    folder = datasets.resolve_data_dir(data_dir)
    infos = [datasets.info(name, data_dir) for name in datasets.names()]
    there = [d["name"] for d in infos if d["available"]]
    missing = [d["name"] for d in infos if not d["available"]]
    found = f"{folder}{'' if folder.is_dir() else ' (not there yet)'}; ready: {', '.join(there)}"
    advice = ""
    if missing:
        found += f"; not there: {', '.join(missing)}"
        advice = f"kshot data get {missing[0]}, or point --data-dir or KSHOT_DATA to a folder that has it."
    return Finding("data", True, found, advice)


def _cache() -> Finding:
    from kshot.datasets.cache import cache_dir

    folder = cache_dir()
    problem = _unwritable(folder)
    if problem:
        return Finding("cache", False, f"{folder}: {problem}", "Data is decoded every time. Set KSHOT_CACHE elsewhere.")
    return Finding("cache", True, f"{folder} is writable")


def _unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder; empty where something can."""
    existing = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(tempfile.TemporaryFile(dir=existing))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _extras() -> Finding:
    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    parts = []
    lacking = []
    for extra, packages in EXTRAS.items():
        have = [f"{package} {version(package)}" for package in packages if version(package)]
        parts.append(f"{extra}: {', '.join(have) or 'none'}")
        if not have and extra == "track":
            lacking.append(extra)
    advice = f"For TensorBoard, W&B or MLflow: pip install 'kshot[{lacking[0]}]'" if lacking else ""
    return Finding("extras", True, "; ".join(parts), advice)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 2**30:.1f} GiB free in {Path.cwd()}"
    problem = _unwritable(Path.cwd())
    if problem:
        return Finding("disk", False, f"{Path.cwd()}: {problem}", "Runs are written below here: work elsewhere.")
    if free < LOW_DISK:
        return Finding("disk", False, found, "Make room: checkpoints and caches take some hundred MiB a run.")
    return Finding("disk", True, found)
