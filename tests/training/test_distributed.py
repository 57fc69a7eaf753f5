"""Several processes train as one does: real processes, started by torchrun, that talk over loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kshot.engine.distributed import Group
from kshot.errors import KshotError

SCRIPT = Path(__file__).parent / "together.py"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(number, *arguments, module=None, torchrun=(), cwd=None, **environment):
    """`torchrun` with so many processes, of the script or of a module."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(number)]
    command += torchrun or ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command += ["-m", module] if module else [str(SCRIPT)]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def run(number, *arguments, code=0, **options):
    process = start(number, *arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What 1, 2 and 4 processes learned, and on two machines."""
    folder = tmp_path_factory.mktemp("together")
    said = {size: run(size, "weights", folder)[1] for size in (1, 2, 4)}
    return folder, said


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_learn_the_same(trained, size):
    """50 steps, of meta-batches that do not divide evenly, with accumulation, clipping, running statistics; processes
    that begin with other weights than the first."""
    folder, _ = trained
    alone, together = (torch.load(folder / f"weights-{n}.pt", weights_only=True) for n in (1, size))
    for name, state in alone.items():
        for key, value in state.items():
            torch.testing.assert_close(
                together[name][key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
            )
    first, other = (json.loads((folder / f"history-{n}.json").read_text()) for n in (1, size))
    assert first["examples"] == other["examples"]
    for name in ("maml", "protonet"):
        assert [row["step"] for row in first[name]] == [row["step"] for row in other[name]]
        for a, b in zip(first[name], other[name], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4) and a["tasks"] == b["tasks"]
            assert a.get("val") == pytest.approx(b.get("val"), rel=1e-3) if "val" in a else "val" not in b


def test_what_they_tell_each_other_is_counted_and_said(trained):
    _, said = trained
    assert "processes:" not in said[1]
    for size in (2, 4):
        lines = re.findall(
            rf"^{size} processes: (.*) a step, .* ms of each step, .* waiting included$", said[size], re.M
        )
        # MAML: 49 parameters, 4 flags of those, 5 numbers, all of them float32.
        assert lines[0] == "one sum of 0.2 kB"


def test_two_machines(trained, tmp_path):
    """Two agents of torchrun that meet over loopback."""
    folder, _ = trained
    port = free_port()
    agents = []
    for node in (0, 1):
        meeting = ["--nnodes", "2", "--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port)]
        agents.append(start(1, "weights", tmp_path, torchrun=meeting))
    for agent in agents:
        out, err = agent.communicate(timeout=300)
        assert agent.returncode == 0, out + err
    alone = torch.load(folder / "weights-1.pt", weights_only=True)
    together = torch.load(tmp_path / "weights-2.pt", weights_only=True)
    for name, state in alone.items():
        for key, value in state.items():
            torch.testing.assert_close(together[name][key], value, rtol=1e-4, atol=1e-6)


def test_a_lost_process_ends_the_run_and_its_checkpoint_resumes_in_another_number(tmp_path):
    _, err = run(3, "killed", tmp_path, code=1, KILL="1")
    run_folder = tmp_path / "run"
    assert re.search(
        r"LostProcessError: process \d of 3: one of the 3 processes that train together is gone \(Connection .*\)\. "
        rf"The checkpoint of step 20 is intact \({run_folder}/checkpoints/step-00000020\)\. Start them again, as many "
        rf"as you like, with --resume {run_folder}",
        err,
    ), err
    run(2, "killed", tmp_path)
    assert [(tmp_path / f"began-{rank}-of-2").read_text() for rank in (0, 1)] == ["20", "20"]
    resumed = json.loads((run_folder / "env.json").read_text())["resumed"]
    assert [(one["step"], one["processes"]) for one in resumed] == [(20, 2)]
    whole = tmp_path / "whole"
    whole.mkdir()
    run(1, "killed", whole)
    from safetensors.torch import load_file

    last = "run/checkpoints/step-00000050/learner.safetensors"
    resumed, expected = load_file(tmp_path / last), load_file(whole / last)
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-6)


def test_one_process_stops_all_of_them_at_the_same_step(tmp_path):
    run(2, "stopped", tmp_path)
    assert [json.loads((tmp_path / f"stopped-{rank}.json").read_text()) for rank in (0, 1)] == [[6, True], [6, True]]


def test_weights_that_drift_apart_are_found_out(tmp_path):
    run(2, "differ", tmp_path)
    for rank in (0, 1):
        said = (tmp_path / f"differ-{rank}.txt").read_text()
        assert (
            said.startswith("the weights differ between the 2 processes") and "Go on from the last checkpoint" in said
        )


def test_the_command(tmp_path):
    """One speaks; what is wrong is said once; a folder that is taken is an error in all of them."""
    arguments = ("train", "--data", "sinusoids", "--learner", "maml", "--steps", 4, "--out", "run")
    small = ("--set", "training.mode=vmap", "--set", "training.val_tasks=4", "--set", "training.meta_batch=4")
    environment = {"KSHOT_CACHE": str(tmp_path / "cache")}
    out, err = run(2, *arguments, *small, module="kshot", cwd=tmp_path, **environment)
    assert out.count("The learner is in run/learner.") == 1
    assert err.count("2 processes: one sum of") == 1
    assert json.loads((tmp_path / "run" / "env.json").read_text())["processes"] == 2
    _, err = run(2, *arguments, *small, module="kshot", cwd=tmp_path, code=1, **environment)
    assert err.count("error: run holds a run already, at step 4") == 1
    few = ("--set", "training.meta_batch=1", "--out", "other")
    _, err = run(2, *arguments, *small, *few, module="kshot", cwd=tmp_path, code=1, **environment)
    message = "a meta-batch of 1 tasks cannot be shared among 2 processes: give a larger meta_batch, or start fewer"
    assert err.count(message) == 1


@given(st.integers(0, 500), st.integers(1, 40))
def test_shares_are_all_tasks_once_and_even(number, size):
    shares = [Group(rank, size).share(number) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_group_of_one_tells_nobody():
    group = Group()
    vector = torch.ones(3)
    assert group.sum(vector) is vector and group.tell(b"x") == b"x" and group.first(lambda: 5) == 5
    assert group.check_same(1.0, "weights")
    assert group.traffic.calls == 0
    with pytest.raises(KshotError, match="no"):
        group.first(lambda: (_ for _ in ()).throw(KshotError("no")))
