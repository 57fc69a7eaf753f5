"""Memories: each addressing step against its formula, padding, the least recently used access by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.capture import build
from kshot.errors import UnsupportedError
from kshot.models import LRUAMemory, NTMMemory, addressing
from kshot.models.memory import EMPTY, least_used

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def simplex(*shape: int, seed: int = 0) -> torch.Tensor:
    return drawn(*shape, seed=seed).softmax(-1)


def test_similarity_is_the_cosine() -> None:
    keys, memory = drawn(2, 3, 5), drawn(2, 7, 5, seed=1)
    found = addressing.cosine_similarity(keys, memory)
    for b in range(2):
        for h in range(3):
            for i in range(7):
                k, row = keys[b, h], memory[b, i]
                assert float(found[b, h, i]) == pytest.approx(float(k @ row / (k.norm() * row.norm())), abs=1e-7)


def test_what_is_empty_resembles_nothing_and_has_a_finite_gradient() -> None:
    memory = torch.zeros(3, 4, requires_grad=True)
    addressing.cosine_similarity(torch.ones(1, 4), memory).sum().backward()
    assert memory.grad is not None
    assert torch.isfinite(memory.grad).all()
    nearly = addressing.cosine_similarity(torch.ones(1, 4), torch.full((3, 4), EMPTY))
    assert float(nearly.abs().max()) < 0.1


def test_weights_by_content_are_a_softmax() -> None:
    similarity, strength = drawn(2, 6), torch.tensor([0.5, 8.0], dtype=F64)
    expected = (strength[:, None] * similarity).exp()
    torch.testing.assert_close(
        addressing.by_content(similarity, strength), expected / expected.sum(-1, keepdim=True), rtol=1e-12, atol=0
    )


def test_the_gate_mixes() -> None:
    content, previous, gate = simplex(2, 6), simplex(2, 6, seed=1), torch.tensor([0.0, 0.3], dtype=F64)
    found = addressing.interpolate(content, previous, gate)
    torch.testing.assert_close(found[0], previous[0], rtol=0, atol=0)
    torch.testing.assert_close(found[1], 0.3 * content[1] + 0.7 * previous[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_a_one_hot_kernel_rolls_the_weights(reach: int) -> None:
    weights = simplex(3, 7)
    for offset in range(-reach, reach + 1):
        kernel = torch.eye(2 * reach + 1, dtype=F64)[reach + offset].expand(3, -1)
        torch.testing.assert_close(addressing.shift(weights, kernel), weights.roll(offset, -1), rtol=0, atol=0)


def test_shifting_is_the_circular_convolution() -> None:
    weights, kernel = simplex(2, 3, 5), simplex(2, 3, 3, seed=1)
    found = addressing.shift(weights, kernel)
    for i in range(5):
        expected = sum(weights[..., j] * kernel[..., o + 1] for j in range(5) for o in (-1, 0, 1) if (j + o) % 5 == i)
        torch.testing.assert_close(found[..., i], expected, rtol=1e-12, atol=0)


def test_sharpening_is_a_power() -> None:
    weights, exponent = simplex(3, 7), torch.tensor([1.0, 2.0, 9.5], dtype=F64)
    powers = weights ** exponent[:, None]
    torch.testing.assert_close(
        addressing.sharpen(weights, exponent), powers / powers.sum(-1, keepdim=True), rtol=1e-10, atol=0
    )
    focused = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    found = addressing.sharpen(focused, torch.tensor([50.0]))
    found.square().sum().backward()
    assert focused.grad is not None
    assert found.tolist() == [[0.0, 1.0, 0.0]]
    assert torch.isfinite(focused.grad).all()


def test_erasing_and_adding_by_hand() -> None:
    memory = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    erase = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    add = torch.tensor([[10.0, 20.0], [2.0, 4.0]])
    # Both heads erase: 1 * (1 - 1) = 0, 2 * (1 - 0.25) = 1.5; 3, 4 * 0.75 = 3. Then both add.
    found = addressing.write(memory, weights, erase, add)
    assert found.tolist() == [[0.0 + 10 + 1, 1.5 + 20 + 2], [3.0 + 1, 3.0 + 2]]
    assert memory.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert addressing.read(memory, torch.tensor([[0.25, 0.75]])).tolist() == [[2.5, 3.5]]


@settings(max_examples=30, deadline=None)
@given(
    slots=st.integers(3, 12),
    heads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    scale=st.floats(0.1, 40.0),
    steps=st.integers(1, 6),
)
def test_weights_stay_weights(slots: int, heads: int, seed: int, scale: float, steps: int) -> None:
    """Never negative, and they sum to one, however extreme what the controller says."""
    torch.manual_seed(seed)
    memory = NTMMemory(5, slots, 4, read_heads=heads, write_heads=2)
    hidden = scale * torch.randn(steps, 2, 5)
    state = memory.initial((2,), hidden)
    with torch.no_grad():
        for x in hidden:
            reads, state = memory(x, state)
            assert reads.shape == (2, heads * 4)
            assert torch.isfinite(reads).all()
            assert bool((state["weights"] >= 0).all())
            torch.testing.assert_close(state["weights"].sum(-1), torch.ones(2, heads + 2))


@pytest.mark.parametrize("kind", [NTMMemory, LRUAMemory])
def test_a_batch_is_its_tasks_one_by_one_under_vmap_and_natively(kind: type) -> None:
    torch.manual_seed(0)
    memory = kind(5, 6, 4).double()
    hidden = drawn(3, 2, 2, 5)  # [steps, 2, 2, features]

    def run(hidden: torch.Tensor) -> torch.Tensor:
        state = memory.initial(hidden.shape[1:-1], hidden)
        for x in hidden:
            reads, state = memory(x, state)
        return torch.as_tensor(reads)

    together = run(hidden)
    for a in range(2):
        for b in range(2):
            torch.testing.assert_close(run(hidden[:, a, b]), together[a, b])
    torch.testing.assert_close(torch.vmap(run, in_dims=1)(hidden), together)


@pytest.mark.parametrize("kind", [NTMMemory, LRUAMemory])
def test_padding_leaves_the_state_as_it_is(kind: type) -> None:
    torch.manual_seed(0)
    memory = kind(5, 6, 4)
    x = torch.randn(2, 2, 5)
    _, before = memory(x[0], memory.initial((2,), x))
    reads, after = memory(x[1], before, torch.tensor([True, False]))
    whole, moved = memory(x[1], before)
    for name, value in after.items():
        torch.testing.assert_close(value[0], moved[name][0])
        torch.testing.assert_close(value[1], before[name][1], rtol=0, atol=0)
    torch.testing.assert_close(reads, torch.stack([whole[0], before["reads"][1]]))


def test_an_ntm_memory_begins_empty_and_at_place_0() -> None:
    memory = NTMMemory(5, 6, 4, read_heads=2)
    state = memory.initial((3,), torch.zeros(1))
    assert bool((state["memory"] == EMPTY).all())
    assert state["weights"].shape == (3, 3, 6)
    assert bool((state["weights"].argmax(-1) == 0).all())
    assert [p for p, _ in memory.named_parameters()] == ["first_reads", "heads.weight", "heads.bias"]
    assert isinstance(build(memory.config), NTMMemory)


def test_the_first_writing_head_of_a_tape_moves_on_and_the_others_look() -> None:
    torch.manual_seed(0)
    memory = NTMMemory(5, 12, 4, read_heads=2, write_heads=2, start="tape").double()
    with torch.no_grad():
        memory.heads.weight.zero_()
    hidden = torch.zeros(5, dtype=F64)
    state = memory.initial((), hidden)
    for step in range(5):
        with torch.no_grad():
            _, state = memory(hidden, state)
        assert int(state["weights"][2].argmax()) == step + 1
        assert float(state["weights"][2].max()) > 0.5
    gates = memory.heads.bias.detach()[memory._tanh + 8 :][:4].sigmoid()  # of content, after the erase vectors
    assert gates[[0, 1, 3]].min() > 0.75
    assert gates[2] < 0.15
    neutral = NTMMemory(5, 12, 4, read_heads=2, write_heads=2)
    assert neutral.heads.bias.abs().max() < 1 <= memory.heads.bias.abs().max()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def softmax(x: list[float]) -> list[float]:
    return [math.exp(v) / sum(map(math.exp, x)) for v in x]


def cosine(a: list[float], b: list[float]) -> float:
    """With 1e-8 added to the squared lengths, so that what is empty resembles nothing."""
    lengths = (math.sqrt(sum(v * v for v in u) + 1e-8) for u in (a, b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / math.prod(lengths)


@pytest.mark.parametrize("start", ["neutral", "tape"])
def test_a_step_of_several_reading_and_writing_heads_by_hand(start: str) -> None:
    """Graves et al. 2014, eq. 2-9, in plain Python, for three steps: the reading heads come first, then the writing."""
    torch.manual_seed(0)
    n, m, readers, writers, k = 6, 3, 2, 3, 2
    heads = readers + writers
    memory = NTMMemory(4, n, m, readers, writers, shifts=k, start=start).double()  # type: ignore[arg-type]
    sizes = [heads * m, writers * m, writers * m, heads, heads, heads, heads * (2 * k + 1)]
    assert memory.heads.weight.shape == (sum(sizes), 4)
    hidden = 2 * drawn(3, 4)
    state = memory.initial((), hidden)
    table, weights = [[EMPTY] * m for _ in range(n)], [[float(i == 0) for i in range(n)] for _ in range(heads)]
    for x in hidden:
        reads, state = memory(x, state)
        keys, add, erase, gates, strengths, exponents, kernels = (
            part.tolist() for part in (memory.heads.weight @ x + memory.heads.bias).split(sizes)
        )
        for h in range(heads):
            key = [math.tanh(v) for v in keys[h * m : (h + 1) * m]]
            content = softmax([softplus(strengths[h]) * cosine(key, row) for row in table])
            gate = sigmoid(gates[h])
            mixed = [gate * content[i] + (1 - gate) * weights[h][i] for i in range(n)]
            kernel = softmax(kernels[h * (2 * k + 1) : (h + 1) * (2 * k + 1)])
            moved = [sum(mixed[(i - j) % n] * kernel[k + j] for j in range(-k, k + 1)) for i in range(n)]
            sharp = [w ** (1 + softplus(exponents[h])) for w in moved]
            weights[h] = [w / sum(sharp) for w in sharp]
        for i in range(n):
            for j in range(m):
                kept = math.prod(1 - weights[readers + h][i] * sigmoid(erase[h * m + j]) for h in range(writers))
                new = sum(weights[readers + h][i] * math.tanh(add[h * m + j]) for h in range(writers))
                table[i][j] = table[i][j] * kept + new
        read = [sum(weights[h][i] * table[i][j] for i in range(n)) for h in range(readers) for j in range(m)]
        for found, expected in ((state["weights"], weights), (state["memory"], table), (reads, read)):
            torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=1e-9, atol=1e-12)


def test_a_tape_begins_elsewhere_than_a_neutral_memory_by_its_biases_alone() -> None:
    """Strengths up by 8; the heads that look: gates up by 2, stay by 3; the first writing one moves on by 3."""
    made = []
    for start in ("neutral", "tape"):
        torch.manual_seed(0)
        made.append(NTMMemory(4, 6, 3, 2, 3, start=start).heads)  # type: ignore[arg-type]
    neutral, tape = made
    assert torch.equal(neutral.weight, tape.weight)
    sizes = [5 * 3 + 3 * 3 + 3 * 3, 5, 5, 5, 15]
    vectors, gates, strengths, exponents, kernels = (tape.bias - neutral.bias).detach().split(sizes)
    assert vectors.count_nonzero() == exponents.count_nonzero() == 0
    torch.testing.assert_close(strengths, torch.full((5,), 8.0))
    torch.testing.assert_close(gates, torch.tensor([2.0, 2.0, -3.0, 2.0, 2.0]))
    others = kernels.view(5, 3)[[0, 1, 3, 4]]
    torch.testing.assert_close(others, torch.tensor([0.0, 3.0, 0.0]).expand(4, 3))
    back, stay, on = tape.bias[-15:].view(5, 3)[2].tolist()
    assert on > 2 > max(abs(back), abs(stay))


def test_least_recently_used_access_by_hand() -> None:
    """Santoro et al. 2016, eq. 2-8, in plain Python, for two steps of one head and then of two."""
    for heads in (1, 2):
        torch.manual_seed(heads)
        memory = LRUAMemory(3, slots=4, width=2, heads=heads, decay=0.9).double()
        hidden = drawn(3, 3, seed=heads)
        state = memory.initial((), hidden)
        rows = [[EMPTY, EMPTY] for _ in range(4)]
        usage, previous = [0.0] * 4, [[0.0] * 4 for _ in range(heads)]
        for x in hidden:
            reads, state = memory(x, state)
            parameters = memory.heads(x).tolist()
            keys = [torch.tensor(parameters[2 * h : 2 * h + 2], dtype=F64).tanh() for h in range(heads)]
            gates = torch.tensor(parameters[2 * heads :], dtype=F64).sigmoid().tolist()
            places = sorted(range(4), key=lambda i: (usage[i], i))[:heads]
            writing = [
                [gates[h] * previous[h][i] + (1 - gates[h]) * (i == places[h]) for i in range(4)] for h in range(heads)
            ]
            rows = [[0.0, 0.0] if i in places else row for i, row in enumerate(rows)]
            rows = [
                [row[j] + sum(writing[h][i] * float(keys[h][j]) for h in range(heads)) for j in range(2)]
                for i, row in enumerate(rows)
            ]
            table = torch.tensor(rows, dtype=F64)
            # The cosine of a row that is nearly empty is damped: 1e-8 is added to squared lengths.
            lengths = (table.square().sum(-1) + 1e-8).sqrt()
            cosines = [table @ key / (lengths * (key @ key + 1e-8).sqrt()) for key in keys]
            previous = [cosine.softmax(0).tolist() for cosine in cosines]
            usage = [0.9 * usage[i] + sum(previous[h][i] + writing[h][i] for h in range(heads)) for i in range(4)]
            torch.testing.assert_close(state["memory"], table)
            torch.testing.assert_close(state["usage"], torch.tensor(usage, dtype=F64))
            torch.testing.assert_close(reads, torch.cat([torch.tensor(w, dtype=F64) @ table for w in previous]))


def test_a_step_takes_a_place_for_each_head_and_a_full_memory_forgets() -> None:
    """After `slots // heads` steps every place is taken; then each step empties the least used ones, as it should."""
    torch.manual_seed(0)
    memory = LRUAMemory(3, slots=6, width=4, heads=2).double()
    with torch.no_grad():
        memory.heads.weight[-2:], memory.heads.bias[-2:] = 0.0, -30.0  # the gates: never where they have just read
    state = memory.initial((), drawn(3))
    taken: list[set[int]] = []
    for x in drawn(5, 3):
        before = state["memory"]
        _, state = memory(x, state)
        taken.append(set((state["memory"] - before).abs().amax(-1).gt(1e-3).nonzero().flatten().tolist()))
    assert [len(places) for places in taken] == [2] * 5
    assert set().union(*taken[:3]) == set(range(6))


def test_the_least_used_places() -> None:
    found = least_used(torch.tensor([[0.2, 0.0, 0.0, 0.1]]), 3)
    assert found.argmax(-1).tolist() == [[1, 2, 3]]
    assert found.sum().item() == 3


def test_a_learned_strength_begins_where_it_is_told() -> None:
    memory = LRUAMemory(3, slots=4, width=2, heads=2, strength=10.0)
    assert memory.log_strength is not None
    torch.testing.assert_close(memory.log_strength.exp(), torch.tensor([10.0, 10.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NTMMemory(5, slots=0), "expected slots of a memory to be at least 1, got 0"),
        (lambda: NTMMemory(5, read_heads=0), "expected read_heads of a memory to be at least 1, got 0"),
        (lambda: NTMMemory(5, start="tap"), "expected start to be 'neutral' or 'tape', got 'tap'"),
        (lambda: NTMMemory(5, shifts=0, start="tape"), "expected shifts of at least 1, as a head of a tape moves"),
        (lambda: NTMMemory(5, 4, shifts=2), "expected shifts between 0 and 1, half of the 4 slots, got 2"),
        (lambda: LRUAMemory(5, 3, heads=4), "expected at most one head for each of the 3 slots, got 4"),
        (lambda: LRUAMemory(5, decay=1.5), r"expected a decay in \[0, 1\], got 1.5"),
        (lambda: LRUAMemory(5, strength=0.0), "expected a positive strength, got 0.0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, message) -> None:
    with pytest.raises(UnsupportedError, match=message):
        make()
