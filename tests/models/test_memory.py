"""Memories: each addressing step against its formula, padding, the least recently used access by hand."""

from __future__ import annotations

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
