"""`kshot bench`: the same work, its answers compared, timed in turn, kept and shown."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch

from kshot import engine
from kshot.bench import Contender, Goal, Missing, Timing, Workload, alternate, report
from kshot.bench.counting import count, count_work
from kshot.bench.machine import Ceilings, describe, measure_ceilings
from kshot.bench.peers import jax as jax_peer
from kshot.bench.run import cannot, compare_all, run
from kshot.bench.workload import Count, compare
from kshot.bench.workloads import workloads
from kshot.bench.workloads.conv4 import Conv4Maml, ManySteps
from kshot.bench.workloads.heads import Heads, heads
from kshot.bench.workloads.sinusoid import Sinusoid
from kshot.bench.workloads.whole import wholes
from kshot.engine import compiled
from kshot.errors import UnsupportedError

CEILINGS = Ceilings(flops=1e9, bytes=1e9, bf16_flops=4e9)


class Sums(Workload):
    """Sums of a vector, by contenders that note when it is their turn."""

    name, title, unit, amount, reference = "sums", "Sums", "sums", 4, "loop"
    goals = (
        Goal(("kshot",), ("loop",), 1e-9),
        Goal(("kshot",), ("loop",), 1e9),
        Goal(("kshot",), ("jax",), 1.0),
        Goal(("kshot",), ("loop",), 0.5, what="memory"),
    )

    precision = "float32"

    def __init__(self, ours=6.0, tolerance=1e-3):
        self.turns, self.ours, self.tolerance = [], ours, tolerance

    def contenders(self):
        yield Contender("loop", lambda: self.turns.append("loop"), lambda: {"sum": torch.tensor(6.0)}, peak=lambda: 100)
        yield Missing("jax", "not installed")
        yield Contender(
            "kshot", lambda: self.turns.append("kshot"), lambda: {"sum": torch.tensor(self.ours)}, ours=True,
            tolerance=self.tolerance, peak=lambda: 40, amount=8, precision=self.precision,
        )  # fmt: skip

    def count(self):
        return Count(1000, 2000)


def test_contenders_have_their_turns_round_by_round_and_the_order_is_turned_about():
    turns = []
    timings = alternate(
        {name: (lambda name=name: turns.append(name), lambda: None) for name in "ab"}, rounds=3, seconds=1e-9
    )
    assert turns[-6:] == ["a", "b", "b", "a", "a", "b"]
    assert all(len(timing.seconds) == 3 for timing in timings.values())


def test_ratios_are_those_of_the_rounds():
    fast, slow = Timing((1.0, 2.0, 4.0)), Timing((3.0, 4.0, 20.0))
    assert fast.median == 2.0
    assert fast.times_faster(slow) == (3.0, 2.0, 5.0)
    assert fast.over(2).seconds == (0.5, 1.0, 2.0)


def test_what_is_not_the_same_work_is_not_timed():
    workload = Sums(ours=6.5)
    with pytest.raises(
        UnsupportedError,
        match=r"^the sum of kshot differ from those of loop by 8.3e-02 \(relative; 1e-03 is taken for rounding\): they "
        "do not do the same work, so nothing was timed$",
    ):
        run(workload, CEILINGS)
    assert workload.turns == []
    with pytest.raises(UnsupportedError, match="they do not do the same work"):
        compare("a", {"losses": torch.ones(2)}, "b", {"losses": torch.ones(3)}, 1.0)
    with pytest.raises(UnsupportedError, match=r"a answers \[\], b answers \['losses'\]"):
        compare("a", {}, "b", {"losses": torch.ones(3)}, 1.0)
    assert compare("a", {"x": torch.tensor([1.0, 1.1])}, "b", {"x": torch.ones(2)}, 0.1).error == pytest.approx(
        0.0707, 1e-2
    )


def test_a_result_says_what_was_measured(tmp_path):
    result = run(Sums(ours=6.001), CEILINGS, rounds=3, seconds=1e-6)
    assert json.loads(json.dumps(result)) == result
    assert result["missing"] == {"jax": "not installed"}
    kshot, loop = result["contenders"]["kshot"], result["contenders"]["loop"]
    assert kshot["error"] == kshot["errors"]["sum"] == pytest.approx(1.67e-4, 1e-2) and "error" not in loop
    assert len(kshot["seconds"]) == 3 and kshot["ours"] and not loop["ours"]
    assert kshot["peak_bytes"] == 40
    assert loop["flops_share"] == pytest.approx(1000 / sorted(loop["seconds"])[1] / 1e9)
    # What needs JAX is not judged; the others are said to be met or not.
    assert [goal["met"] for goal in result["goals"]] == [True, False, True]
    unknown = "NOT JUDGED: kshot is to be 1 times as fast as jax, but there is no jax"
    assert report.missed(result, 0.5)[1:] == [unknown] and report.goals(result)[3:] == [unknown]
    assert report.missed({**result, "goals": [], "unjudged": []}, 0.5) == []
    lines = report.goals(result)
    assert lines[0].startswith("reached: kshot is ") and lines[1].startswith("SHORT: kshot is ")
    assert lines[2] == "reached: kshot takes 40 % of the memory of loop (at most 50 % asked)"
    head, rows = report.rows(result)
    assert head[:2] == ["contender", "sums/s"] and {row[0] for row in rows} == {"kshot", "loop"}
    kept = {**result, "machine": describe()}
    report.save(kept, tmp_path, "sums")
    assert report.load(tmp_path, ["sums", "others"]) == {"sums": kept}
    assert report.picture({"sums": kept})[:8] == b"\x89PNG\r\n\x1a\n"


def test_only_some_contenders():
    assert set(run(Sums(), CEILINGS, rounds=1, seconds=1e-6, only=[])["contenders"]) == {"loop"}


def test_operations_and_bytes_are_counted():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    found = count(lambda: (a @ b).t().relu())
    assert found.flops == 2 * 3 * 4 * 5
    assert found.bytes == 4 * (12 + 20 + 15) + 4 * (15 + 15), "the product and the maximum; a transpose moves nothing"


def test_ceilings_are_no_fiction():
    found = measure_ceilings(64, 0.05)
    assert 1e7 < found.flops < 1e14 and 1e8 < found.bytes < 1e13 and 1e5 < found.bf16_flops < 1e15
    assert found.flops_in("float32") == found.flops


def test_what_computes_in_bf16_is_under_its_own_ceiling():
    assert CEILINGS.flops_in("bf16") == 4e9
    assert Ceilings(1e9, 1e9, 1e6).flops_in("bf16") == 1e9, "a machine without units for bf16"
    workload = Sums()
    workload.precision = "bf16"
    kshot = run(workload, CEILINGS, rounds=1, seconds=1e-6)["contenders"]["kshot"]
    assert kshot["precision"] == "bf16"
    assert kshot["flops_share"] == pytest.approx(1000 / kshot["seconds"][0] / 4e9)


def test_float32_is_float32_on_a_gpu_too():
    def allowed():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before, within = allowed(), []
    workload = Sums()
    workload.contenders = lambda: (within.append(allowed()), *Sums.contenders(workload))[1:]
    run(workload, CEILINGS, rounds=1, seconds=1e-6)
    assert within == [(False, False)] and allowed() == before


def test_a_gpu_has_goals_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    workload = Conv4Maml(5, 1, 4)
    assert [goal.ratio for goal in workload.asked()] == [1.2, 1.5, 1.0]
    workload.device = torch.device("cuda")
    (goal,) = workload.asked()
    assert goal.ratio == 10 and {"plain loop", "higher", "torchopt"} <= set(goal.theirs)
    sums = Sums()
    sums.device, sums.gpu_goals = torch.device("cuda"), (Goal(("kshot",), ("loop",), 7.0),)
    assert [goal["ratio"] for goal in run(sums, CEILINGS, rounds=1, seconds=1e-6)["goals"]] == [7.0]


@pytest.mark.parametrize("name", [name for name in workloads() if name not in ("start-up", "sampling")])
def test_goals_are_of_contenders_that_there_are(name):
    workload = workloads()[name]()
    there = {contender.name for contender in workload.contenders()}
    assert workload.reference in there
    for goal in (*workload.goals, *workload.gpu_goals):
        for side in (goal.ours, goal.theirs):
            # Of what several workloads ask, a learner may be without `native`, and JAX without its tasks in turn.
            assert set(side) & there and set(side) <= there | {"kshot native", "jax, in turn"}


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("latency-1", 30 * 2 * 9 * 64 * (28**2 + 64 * (14**2 + 7**2 + 3**2))),  # support and queries through Conv-4
        ("latency-1000-prototypes", 1000 * 2 * 5 * (25 + 5) * 64),  # means, distances
        ("latency-1000-anil", 1000 * 5 * 2 * 2 * 25 * 64 * 5),  # a head's output and its gradient, five times
        ("evaluation-1000", 1000 * 100 * 2 * 9 * 64 * (28**2 + 64 * (14**2 + 7**2 + 3**2))),
    ],
)
def test_the_work_of_a_workload_is_counted(name, flops):
    workload = workloads()[name]()
    list(workload.contenders())
    assert flops <= workload.count().flops <= 1.1 * flops
    assert workload.count().bytes > 0


def test_the_work_of_many_steps_is_counted_with_few():
    workload = ManySteps()
    list(workload.contenders())
    workload.problem = dataclasses.replace(workload.problem, steps=4)
    assert workload.count() == count_work(workload.problem)


def test_what_cannot_be_compiled_is_left_out(monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(compiled, "compile_graph", broken)
    workload, said = dict(heads())["anil-head-1s"](), []
    workload.amount = 2
    result = run(workload, CEILINGS, rounds=1, seconds=1e-6, say=said.append)
    assert set(result["contenders"]) == {"plain loop", "kshot loop", "kshot vmap"}
    assert result["missing"]["kshot compile"] == "cannot be compiled: RuntimeError: no compiler"
    assert "anil-head-1s: without kshot compile (cannot be compiled: RuntimeError: no compiler)" in said
    assert [goal["ours"] for goal in result["goals"]] == ["kshot vmap"]


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room")])
@pytest.mark.parametrize("part", ["answers", "step"])
def test_who_has_no_room_is_left_out(error, part):
    def full():
        raise error

    class Large(Sums):
        def contenders(self):
            for one in Sums.contenders(self):
                if one.name == "kshot":
                    setattr(one, part, full)
                yield one

    result = run(Large(), CEILINGS, rounds=1, seconds=1e-6)
    assert set(result["contenders"]) == {"loop"} and result["missing"]["kshot"] == "out of memory: no room"
    assert len(result["unjudged"]) == 4


def test_which_errors_are_no_mistake_of_ours():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(10**15)
    assert cannot(refused.value).startswith("out of memory: ")
    assert cannot(ImportError("no module")) == "ImportError: no module"
    assert cannot(RuntimeError("something else")) is None and cannot(UnsupportedError("differs")) is None


def test_a_peer_that_cannot_be_imported_costs_its_own_row(monkeypatch, tmp_path):
    (tmp_path / "higher.py").write_text("raise AttributeError('not with this torch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "higher", raising=False)
    found = {c.name: c for c in Sinusoid(1).contenders()}
    assert found["higher"] == Missing(
        "higher", "installed, but cannot be imported (AttributeError: not with this torch)"
    )
    assert isinstance(found["torchopt"], Contender)


def test_jax_computes_where_torch_does(monkeypatch):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # what it is where JAX has one
    assert jax_peer.absent(torch.device("cpu")) is None
    assert "finds no GPU" in jax_peer.absent(torch.device("cuda"))

    def without_cpu(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "devices", without_cpu)
    assert jax_peer.absent(torch.device("cpu")) == (
        "the one that is installed does not compute on a CPU here (Unknown backend cpu); see JAX_PLATFORMS"
    )


def test_losses_in_bf16_have_a_bound_of_their_own(monkeypatch):
    from kshot.training import environment

    workload = Conv4Maml(5, 1, 1)
    monkeypatch.setattr(environment, "has_bf16", lambda: False)
    missing = {c.name: c.reason for c in workload.contenders() if isinstance(c, Missing) and "bf16" in c.name}
    assert set(missing) == {"kshot loop bf16", "kshot compile bf16"}
    assert all(reason.startswith("this CPU has no instructions for bf16 (") for reason in missing.values())
    monkeypatch.setattr(environment, "has_bf16", lambda: True)
    coarse = [c for c in workload.contenders() if isinstance(c, Contender) and c.precision == "bf16"]
    assert {c.name for c in coarse} == {"kshot loop bf16", "kshot compile bf16"}
    expected = {"losses": torch.ones(4), "meta-gradient": torch.ones(4)}
    for one in coarse:
        limits = one.tolerance, one.tolerances
        compare("a", {"losses": torch.ones(4) * 1.04, "meta-gradient": torch.ones(4) * 1.2}, "b", expected, *limits)
        with pytest.raises(UnsupportedError, match=r"the losses of a .* \(relative; 5e-02"):
            compare("a", {"losses": torch.ones(4) * 1.1, "meta-gradient": torch.ones(4)}, "b", expected, *limits)


def test_ratios_are_of_rounds_in_the_table_as_in_the_goals():
    def row(*seconds):
        return {"per_second": 1 / Timing(seconds).median, "seconds": list(seconds), "ours": False}

    # A machine that is three times as slow in some rounds: medians would say 30 / 2.
    contenders = {"loop": row(10.0, 30.0, 30.0), "kshot": row(1.0, 2.0, 6.0)}
    result = {"contenders": contenders, "reference": "loop", "amount": 1, "unit": "tasks", "goals": []}
    assert report.times_reference(result) == {"loop": 1.0, "kshot": 10.0}
    assert [cells[3] for cells in report.rows(result)[1]] == ["10.00", "1.00"]


@pytest.mark.parametrize("steps", [1, 5])
def test_kshot_and_its_peers_have_the_same_losses_and_meta_gradients(steps):
    workload = Sinusoid(steps)
    with engine.compile_backend("eager"):
        present = {c.name: c for c in workload.contenders() if isinstance(c, Contender)}
        found, unable = compare_all(workload, present, lambda _: None)
    assert not unable
    assert {"higher", "torchopt", "jax", "kshot loop", "kshot vmap", "kshot compile"} <= set(found)
    assert all(comparison.error < 1e-5 for comparison in found.values())
    counted = workload.count()
    # 25 tasks; the query pass alone is 3 times the products of its forward pass.
    assert counted.flops > 25 * 3 * 2 * 10 * (40 + 1600 + 40)


@pytest.mark.parametrize("name", [name for name, _ in heads()])
def test_heads_agree(name):
    workload = dict(heads())[name]()
    assert isinstance(workload, Heads)
    workload.amount = 2
    with engine.compile_backend("eager"):
        present = {c.name: c for c in workload.contenders() if isinstance(c, Contender)}
        found, _ = compare_all(workload, present, lambda _: None)
    assert "kshot compile" in found and all(comparison.error < 1e-3 for comparison in found.values())


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["anil", "protonet-5w5s"])
def test_whole_steps_agree_with_published_code(name):
    workload = dict(wholes())[name]()
    few = workload.episodes(0)[:1]
    workload.amount, workload.episodes = 1, lambda seed: few
    with engine.compile_backend("eager"):
        present = {c.name: c for c in workload.contenders() if isinstance(c, Contender)}
        assert all(c.error < 1e-7 for c in compare_all(workload, present, lambda _: None)[0].values())


def test_every_workload_has_a_title():
    for name, make in workloads().items():
        workload = make()
        assert workload.name == name and workload.title and workload.amount > 0
