"""What all tests stand on: folders of their own, no network, no telemetry, real data where it is given."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

# They hold no doctests, and as modules all would have one name.
collect_ignore_glob = ["*conftest.py"]

_HOME = pytest.StashKey[str]()

# No time limits (a slow machine is no bug), the same examples in every run, nothing written into the checkout.
hypothesis.settings.register_profile(
    "kshot",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("kshot")


def pytest_configure(config: pytest.Config) -> None:
    """Gives the session a home of its own, before anything is imported that looks for one.

    Here rather than in a fixture, so that the examples of docstrings and of the pages have it as well. Decoded pools
    are cached in it: Omniglot is decoded once a session.
    """
    # A job that a shell starts in the background ignores Ctrl-C, and so would every run that the tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tempfile.mkdtemp(prefix="kshot-tests-")
    config.stash[_HOME] = home
    # The workers of a session (`-n 2`) share the cache of the process that started them.
    cache = os.environ["KSHOT_CACHE"] if "PYTEST_XDIST_WORKER" in os.environ else f"{home}/cache/kshot"
    os.environ.update(
        HOME=home,
        USERPROFILE=home,
        XDG_CACHE_HOME=f"{home}/cache",
        XDG_CONFIG_HOME=f"{home}/config",
        XDG_DATA_HOME=f"{home}/data",
        XDG_STATE_HOME=f"{home}/state",
        KSHOT_CACHE=cache,
        MPLBACKEND="Agg",
        MPLCONFIGDIR=f"{home}/config/matplotlib",
        # Widths and colours of tables do not depend on who is looking.
        COLUMNS="120",
        NO_COLOR="1",
        # Libraries that would call home.
        DO_NOT_TRACK="1",
        WANDB_MODE="offline",
        WANDB_SILENT="true",
        WANDB_DIR=home,
        MLFLOW_DISABLE_TELEMETRY="true",
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        NO_PROXY="127.0.0.1,localhost",
        no_proxy="127.0.0.1,localhost",
    )
    if "OMP_NUM_THREADS" not in os.environ:
        # One thread for each of several workers (`-n 2`): two that share two cores are many times slower.
        alone = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1"
        threads = min(2, os.cpu_count() or 1) if alone else 1
        torch.set_num_threads(threads)
        if not alone:
            os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> None:
    """The same numbers in every run, for what a module makes when it is imported..."""
    torch.manual_seed(12345)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """... and for a test, whichever ran before it. Both are about tests: kshot itself draws from seeds of its own."""
    torch.manual_seed(12345)


def pytest_unconfigure(config: pytest.Config) -> None:
    home = config.stash.get(_HOME, None)
    if home:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Lets connections go to this machine only."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests have no network, but something connects to {address}")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, $KSHOT_DATA. Without one the test is skipped; with KSHOT_REQUIRE_DATA=1 it fails."""
    folder = os.environ.get("KSHOT_DATA", "")
    if folder and Path(folder).is_dir() and any(Path(folder).iterdir()):
        return Path(folder)
    problem = f"KSHOT_DATA is {folder!r}: expected the folder that holds omniglot/ and cifar_fs/"
    if os.environ.get("KSHOT_REQUIRE_DATA") == "1":
        pytest.fail(problem)
    pytest.skip(problem)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of the tests' own."""
    from postgres import cluster

    with cluster() as url:
        yield url
