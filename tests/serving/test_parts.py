"""The parts of the server by themselves: lanes, lookups, the vault, the cache, settings, rates."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kshot.errors import ArtifactError, ConfigError
from kshot.serving.lanes import BusyError, Lane, LateError
from kshot.serving.lookups import Gather
from kshot.serving.payloads import pack, unpack
from kshot.serving.rates import Rates
from kshot.serving.settings import load_settings
from kshot.serving.states import State, StateCache, decode, encode
from kshot.serving.store import rows
from kshot.serving.threads import compute_alone, compute_with, in_a_thread_that_ends, threads_of
from kshot.serving.vault import Vault, new_key, read_keys


class Held:
    """Runs batches that begin when they are let, and remembers them."""

    def __init__(self, **options: Any) -> None:
        self.batches: list[list[Any]] = []
        self.let, self.begun = threading.Event(), threading.Event()
        self.lane: Lane[Any] = Lane(self.run, name="held", **options)

    def run(self, jobs: Sequence[Any]) -> list[Any]:
        self.batches.append(list(jobs))
        self.begun.set()
        assert self.let.wait(30)
        return [ValueError(job) if str(job).startswith("bad") else f"{job} done" for job in jobs]

    async def begin(self) -> asyncio.Task[Any]:
        """Keeps the thread busy, so that what comes next waits."""
        task = asyncio.ensure_future(self.lane.do("first", tenant="first"))
        await asyncio.to_thread(self.begun.wait, 30)
        return task


def test_what_waits_together_is_run_together_and_fairly() -> None:
    async def ask() -> list[Any]:
        held = Held(room=100, batch=3)
        first = await held.begin()
        asked = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("bad", "c")]
        tasks = [asyncio.ensure_future(held.lane.do(job, tenant=tenant)) for job, tenant in asked]
        await asyncio.sleep(0)
        held.let.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        held.lane.close()
        # One of each tenant in turn: what a asks for waits behind its own.
        assert held.batches == [["first"], ["a1", "b1", "bad"], ["a2", "a3", "a4"]]
        return results

    results = asyncio.run(ask())
    assert results[:6] == ["first done", "a1 done", "a2 done", "a3 done", "a4 done", "b1 done"]
    assert isinstance(results[6], ValueError)


def test_a_full_room_refuses_and_says_how_long() -> None:
    async def ask() -> None:
        held = Held(room=4, batch=10)
        first = await held.begin()
        waiting = asyncio.ensure_future(held.lane.do("long", tenant="a", size=3))
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as refused:
            await held.lane.do("more", tenant="a", size=2)
        assert refused.value.seconds > 0
        one = asyncio.ensure_future(held.lane.do("one", tenant="a"))
        await asyncio.sleep(0)
        assert held.lane.waiting == 4
        # Who has less than a share of the room is not kept out by who fills it.
        with pytest.raises(BusyError):
            await held.lane.do("much", tenant="b", size=3)
        other = asyncio.ensure_future(held.lane.do("other", tenant="b", size=2))
        await asyncio.sleep(0)
        assert held.lane.waiting == 6
        with pytest.raises(BusyError):
            await held.lane.do("again", tenant="b")
        held.let.set()
        done = await asyncio.gather(first, waiting, one, other)
        assert done == ["first done", "long done", "one done", "other done"]
        assert held.lane.waiting == 0
        assert await held.lane.do("large", tenant="a", size=1000) == "large done", "of an empty room any size"
        await asyncio.to_thread(held.lane.close)
        with pytest.raises(BusyError):
            await held.lane.do("late", tenant="a")

    asyncio.run(ask())


def test_what_is_too_late_is_not_begun() -> None:
    async def ask() -> None:
        held = Held(room=10, batch=10)
        first = await held.begin()
        late = asyncio.ensure_future(held.lane.do("late", tenant="a", deadline=0.0))
        gone = asyncio.ensure_future(held.lane.do("gone", tenant="a"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        held.let.set()
        with pytest.raises(LateError):
            await late
        await first
        held.lane.close()
        assert held.batches == [["first"]], "nor what nobody waits for any more"

    asyncio.run(ask())


def test_a_batch_that_fails_fails_for_all_of_it() -> None:
    async def ask() -> None:
        def run(jobs: Sequence[Any]) -> list[Any]:
            raise RuntimeError("broken")

        lane: Lane[Any] = Lane(run, room=10, batch=10, name="broken")
        for _ in range(2):  # and the thread goes on
            with pytest.raises(RuntimeError, match="broken"):
                await lane.do("a", tenant="a")
        lane.close()

    asyncio.run(ask())


def test_questions_that_come_together_are_one_read() -> None:
    from concurrent.futures import ThreadPoolExecutor

    reads: list[list[int]] = []
    let = threading.Event()

    def find(keys: list[int]) -> dict[int, int]:
        reads.append(sorted(keys))
        assert let.wait(30)
        if 13 in keys:
            raise OSError("no such luck")
        return {key: 10 * key for key in keys if key < 5}

    async def ask() -> None:
        with ThreadPoolExecutor(1) as threads:
            gather: Gather[int, int] = Gather(find, threads)
            first = asyncio.ensure_future(gather.get(1))
            while not reads:
                await asyncio.sleep(0.001)
            others = [asyncio.ensure_future(gather.get(key)) for key in (1, 2, 2, 9)]
            await asyncio.sleep(0)
            let.set()
            assert await first == 10
            assert await asyncio.gather(*others) == [10, 20, 20, None]
            # Who asked while the first read was under way is answered by a later one, of what is true by then.
            assert reads == [[1], [1, 2, 9]]
            with pytest.raises(OSError, match="no such luck"):
                await gather.get(13)
            assert await gather.get(3) == 30

    asyncio.run(ask())


def test_what_nobody_waits_for_comes_last_and_alone() -> None:
    async def ask() -> None:
        held = Held(room=100, batch=3)
        first = await held.begin()
        idle = [asyncio.ensure_future(held.lane.do_when_idle(f"idle {i}", tenant="a")) for i in range(2)]
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(held.lane.do(f"b{i}", tenant="b")) for i in range(4)]
        await asyncio.sleep(0)
        held.let.set()
        await asyncio.gather(first, *others, *idle)
        held.lane.close()
        assert held.batches == [["first"], ["b0", "b1", "b2"], ["b3"], ["idle 0"], ["idle 1"]]
        with pytest.raises(BusyError):
            await held.lane.do_when_idle("late", tenant="a")

    asyncio.run(ask())


@pytest.mark.parametrize(("quiet", "patience", "comes"), [(0.0, 1e6, True), (1e6, 0.0, True), (1e6, 1e6, False)])
def test_what_nobody_waits_for_waits_for_quiet(quiet: float, patience: float, comes: bool) -> None:
    async def ask() -> list[list[str]]:
        held = Held(room=100, batch=3, quiet=quiet, patience=patience)
        held.let.set()
        await held.lane.do("first", tenant="a")
        idle = asyncio.ensure_future(held.lane.do_when_idle("idle", tenant="a"))
        await (idle if comes else held.lane.do("second", tenant="a"))
        await asyncio.to_thread(held.lane.close)
        idle.cancel()
        return held.batches

    assert asyncio.run(ask()) == [["first"], ["idle" if comes else "second"]]


def test_threads_compute_with_as_many_as_they_were_told() -> None:
    here = torch.get_num_threads()
    assert in_a_thread_that_ends(torch.get_num_threads, 3) == 3
    with pytest.raises(KeyError, match="no such luck"):
        in_a_thread_that_ends(lambda: {}["no such luck"], 1)
    assert torch.get_num_threads() == here
    assert threads_of(load_settings(None, {"threads": 7}, {})) == 7
    assert threads_of(load_settings(None, {"workers": 64}, {})) == 1

    async def ask() -> list[int]:
        counts: list[int] = []
        for begin in (compute_alone, partial(compute_with, 5)):
            lane: Lane[str] = Lane(
                lambda jobs: [torch.get_num_threads() for _ in jobs], room=9, batch=9, name="-", begin=begin
            )
            counts.append(await lane.do("count", tenant="a"))
            await asyncio.to_thread(lane.close)
        return counts

    assert asyncio.run(ask()) == [1, 5]


@given(st.sets(st.integers(1, 200)))
def test_ranges_of_numbers(numbers: set[int]) -> None:
    assert rows.unpack(rows.pack(numbers)) == sorted(numbers)


def test_the_vault(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "master.key"
    vault = Vault.of_file(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    secret = b"an example" * 100
    sealed = vault.seal(secret, "example task_1/1")
    assert secret[:10] not in sealed
    assert Vault.of_file(path).open(sealed, "example task_1/1") == secret
    assert vault.seal(secret, "example task_1/1") != sealed, "never the same twice"
    broken = sealed[:-1] + bytes([sealed[-1] ^ 1])
    other = Vault.of_file(tmp_path / "other.key")
    for of, what, about in (
        (vault, sealed, "example task_1/2"),  # another row's
        (vault, broken, "example task_1/1"),
        (vault, b"", "example task_1/1"),
        (other, sealed, "example task_1/1"),
    ):
        with pytest.raises(ArtifactError, match="cannot be opened: it was changed, or sealed with another master key"):
            of.open(what, about)
    # A newer key seals; the older ones open what they sealed.
    both = Vault([new_key(), *read_keys(path)])
    assert both.open(sealed, "example task_1/1") == secret
    assert not sealed.startswith(both.newest)
    newer = both.seal(secret, "example task_1/1")
    assert newer.startswith(both.newest)
    with pytest.raises(ArtifactError, match="another master key"):
        vault.open(newer, "example task_1/1")
    for content in ("", "nonsense", "aGVsbG8="):
        path.write_text(content)
        with pytest.raises(ArtifactError, match="expected master keys"):
            Vault.of_file(path)


def state(task: str = "t", version: int = 1, size: int = 4) -> State:
    adapted = {"prototypes": torch.randn(2, size), "deep": [torch.arange(3)]}
    y = torch.tensor([0, 1])
    both = torch.ones(2, dtype=torch.bool)
    return State(task, version, "d", adapted, both, ["a", "b"], [1, 2], y, torch.randn(2, 3), {})


def test_halves_as_bytes() -> None:
    tensors = {"half": torch.randn(3, 2).bfloat16(), "whole": torch.arange(4)}
    head, found = unpack(pack({"a": 1}, tensors))
    assert head == {"a": 1}
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_states_as_bytes() -> None:
    one = state()
    again = decode(encode(one))
    assert torch.equal(again.adapted["prototypes"], one.adapted["prototypes"])
    assert torch.equal(again.adapted["deep"][0], one.adapted["deep"][0])
    for name in ("task", "version", "digest", "labels", "numbers", "info", "shape"):
        assert getattr(again, name) == getattr(one, name)
    with pytest.raises(ArtifactError, match="what is stored is damaged"):
        decode(encode(one)[:-5])


def test_the_cache_keeps_to_its_budget() -> None:
    size = state(size=1000).bytes
    assert size > 8000
    cache = StateCache(3 * size)
    for name in "abc":
        cache.put(state(name, size=1000))
    assert cache.get("a", 1) is not None
    cache.put(state("d", size=1000))
    assert [name for name in "abcd" if cache.get(name, 1)] == ["a", "c", "d"], "b was asked for longest ago"
    assert cache.bytes <= cache.budget
    assert cache.get("a", 2) is None, "of another version"
    cache.put(state("a", 3, size=1000))
    cache.put(state("a", 2, size=1000))
    assert cache.get("a", 3) is not None, "an older one does not take a newer one's place"
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a", 3) is None
    assert cache.bytes == 2 * size
    assert (len(cache), cache.dropped) == (2, 1)


def test_rates() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    assert [rates.take("a", 2.0) for _ in range(4)] == [0.0] * 4
    assert rates.take("a", 2.0) == pytest.approx(0.5)
    assert rates.take("b", 2.0) == 0.0
    now[0] = 0.5
    assert rates.take("a", 2.0) == 0.0
    assert rates.take("a", 2.0) > 0


def test_settings_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nlimits: {way: 7, steps: 9}\nquotas: {tasks: 3}\nmodels: runs/a\n")
    environment = {"KSHOT_SERVE_PORT": "2", "KSHOT_SERVE_LIMITS__WAY": "8", "HOME": "/"}
    found = load_settings(file, {"port": 3, "host": None}, environment)
    assert (found.port, found.limits.way, found.limits.steps, found.quotas.tasks) == (3, 8, 9, 3)
    assert found.models == ("runs/a",)
    assert load_settings(file, {}, environment).port == 2
    assert load_settings(file, {}, {}).port == 1
    assert load_settings(None, {}, {}).port == 8000
    for content, message in (
        ({"prot": 1}, "unknown setting prot. Did you mean 'port'?"),
        ({"limits.wya": 1}, "unknown setting limits.wya. Did you mean 'way'?"),
        ({"port": 70000}, "the setting port: input should be less than or equal to 65535, got 70000"),
        ({"retention": "all"}, "the setting retention: input should be 'adaptation', 'raw' or 'none', got 'all'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_settings(None, content, {})
