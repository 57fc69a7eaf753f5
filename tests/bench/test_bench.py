"""`kshot bench`: the same work, its answers compared, timed in turn, kept and shown."""

from __future__ import annotations

import json

import pytest
import torch

from kshot import engine
from kshot.bench import Contender, Goal, Missing, Timing, Workload, alternate, report
from kshot.bench.counting import count
from kshot.bench.machine import Ceilings, describe, measure_ceilings
from kshot.bench.run import compare_all, run
from kshot.bench.workload import Count, compare
from kshot.bench.workloads import workloads
from kshot.bench.workloads.heads import Heads, heads
from kshot.bench.workloads.sinusoid import Sinusoid
from kshot.bench.workloads.whole import wholes
from kshot.errors import UnsupportedError

CEILINGS = Ceilings(flops=1e9, bytes=1e9)


class Sums(Workload):
    """Sums of a vector, by contenders that note when it is their turn."""

    name, title, unit, amount, reference = "sums", "Sums", "sums", 4, "loop"
    goals = (
        Goal(("kshot",), ("loop",), 0.0),
        Goal(("kshot",), ("loop",), 1e9),
        Goal(("kshot",), ("jax",), 1.0),
        Goal(("kshot",), ("loop",), 0.5, what="memory"),
    )

    def __init__(self, ours=6.0, tolerance=1e-3):
        self.turns, self.ours, self.tolerance = [], ours, tolerance

    def contenders(self):
        yield Contender("loop", lambda: self.turns.append("loop"), lambda: {"sum": torch.tensor(6.0)}, peak=lambda: 100)
        yield Missing("jax", "not installed")
        yield Contender(
            "kshot", lambda: self.turns.append("kshot"), lambda: {"sum": torch.tensor(self.ours)}, ours=True,
            tolerance=self.tolerance, peak=lambda: 40, amount=8,
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
    assert kshot["error"] == pytest.approx(1.67e-4, 1e-2) and "error" not in loop
    assert len(kshot["seconds"]) == 3 and kshot["ours"] and not loop["ours"]
    assert kshot["peak_bytes"] == 40
    assert loop["flops_share"] == pytest.approx(1000 / sorted(loop["seconds"])[1] / 1e9)
    # What needs JAX is left out; the others are said to be met or not.
    assert [goal["met"] for goal in result["goals"]] == [True, False, True]
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
    found = measure_ceilings(64, 0.01)
    assert 1e7 < found.flops < 1e14 and 1e8 < found.bytes < 1e13


@pytest.mark.parametrize("steps", [1, 5])
def test_kshot_and_its_peers_have_the_same_losses_and_meta_gradients(steps):
    workload = Sinusoid(steps)
    with engine.compile_backend("eager"):
        present = {c.name: c for c in workload.contenders() if isinstance(c, Contender)}
        found = compare_all(workload, present, lambda _: None)
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
        found = compare_all(workload, present, lambda _: None)
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
        assert all(c.error < 1e-7 for c in compare_all(workload, present, lambda _: None).values())


def test_every_workload_has_a_title():
    for name, make in workloads().items():
        workload = make()
        assert workload.name == name and workload.title and workload.amount > 0
