from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kshot.datasets import Pool, check_disjoint, split_classes
from kshot.datasets.splits import shuffled
from kshot.errors import DataError, OverlappingSplitsError, TooFewClassesError


def images(n: int = 6, size: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pool_of(*counts: int) -> Pool:
    return Pool.from_sorted(images(sum(counts)), counts, [f"c{i}" for i in range(len(counts))])


def test_rows_are_grouped_by_class_in_the_order_of_the_labels():
    x = images(5)
    pool = Pool.from_arrays(x, ["b", "a", "b", "c", "a"])
    assert pool.names == ("a", "b", "c")
    assert pool.count.tolist() == [2, 2, 1]
    assert torch.equal(pool.images(0), x[[1, 4]])
    assert torch.equal(pool.images(1), x[[0, 2]])
    assert pool.is_image
    assert len(pool) == 3
    assert pool.examples == 5


def test_features_become_float32():
    pool = Pool.from_arrays(np.arange(6.0).reshape(3, 2), np.array([1, 0, 1]), names=["no", "yes"])
    assert pool.x.dtype == torch.float32
    assert pool.names == ("no", "yes")
    assert pool.images(1).tolist() == [[0.0, 1.0], [4.0, 5.0]]


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_every_example_keeps_its_label(labels: list[int]):
    x = torch.arange(len(labels), dtype=torch.float32)[:, None]
    pool = Pool.from_arrays(x, labels)
    seen = []
    for c, name in enumerate(pool.names):
        rows = pool.images(c)[:, 0].long().tolist()
        assert all(labels[i] == int(name) for i in rows)
        seen += rows
    assert sorted(seen) == list(range(len(labels)))


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=8), data=st.data())
def test_select_keeps_each_class_whole(counts: list[int], data: st.DataObject):
    pool = pool_of(*counts)
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), unique=True))
    part = pool.select(chosen)
    assert part.x is pool.x
    assert part.names == tuple(pool.names[c] for c in chosen)
    for c, original in enumerate(chosen):
        assert torch.equal(part.rows(c), pool.rows(original))
    mask = torch.zeros(len(pool), dtype=torch.bool)
    mask[chosen] = True
    assert pool.select(mask).names == tuple(n for i, n in enumerate(pool.names) if i in chosen)


def test_a_quarter_turn_is_counter_clockwise():
    x = torch.tensor([[[[0, 9], [0, 0]]]], dtype=torch.uint8)
    pool = Pool(x, [0], [1], [1], [0], ("turned",))
    assert pool.images(0)[0, 0].tolist() == [[9, 0], [0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.zeros(2, 4, 4, dtype=torch.uint8)},
            r"expected uint8 images of shape \[N, C, H, W\], got \[2, 4, 4\]",
        ),
        ({"x": torch.zeros(2, 3, dtype=torch.float64)}, r"float32 features \[N, d\], got float64 \[2, 3\]"),
        ({"start": [0, 1]}, r"expected start of shape \[1\], one for each class name, got \[2\]"),
        ({"count": [3]}, r"a class ends at row 3, but there are 2 rows"),
        ({"count": [-1]}, r"at least 0"),
        ({"turns": [4]}, r"expected turns in 0\.\.3"),
        ({"x": torch.zeros(2, 1, 4, 5, dtype=torch.uint8), "turns": [1]}, r"only square images can be turned"),
    ],
)
def test_arrays_that_disagree_are_refused(change: dict[str, object], message: str):
    fields = {"x": images(2), "start": [0], "count": [2], "turns": [0], "kin": [0], "names": ("a",), **change}
    with pytest.raises(DataError, match=message):
        Pool(**fields)


def test_wrong_selections_are_refused():
    with pytest.raises(DataError, match=r"expected a mask of shape \[2\], got \[3\]"):
        pool_of(1, 1).select([True, False, True])
    with pytest.raises(DataError, match=r"expected class indices in 0\.\.1, got 0\.\.2"):
        pool_of(1, 1).select([0, 2])
    with pytest.raises(DataError, match="expected one label for each of the 2 examples, got 1 labels"):
        Pool.from_arrays(images(2), [0])
    with pytest.raises(DataError, match="expected 2 class names, one for each label, got 1"):
        Pool.from_arrays(images(2), [0, 1], names=["a"])


def test_hashes_tell_content():
    x = images(3)
    x[2] = x[0]
    hashes = Pool.from_sorted(x, [3], ["a"]).example_hashes()
    assert hashes.dtype == torch.int64
    assert hashes[0] == hashes[2]
    assert hashes[0] != hashes[1]
    assert torch.equal(hashes[:2], Pool.from_sorted(x[:2].clone(), [2], ["b"]).example_hashes())
    assert len(Pool.from_sorted(x[:0], [], []).example_hashes()) == 0


# ---- splits


@given(n=st.integers(0, 40), at_least=st.integers(1, 6), seed=st.integers(0, 5))
def test_a_split_deals_out_every_class_once(n: int, at_least: int, seed: int):
    names = [f"class {i}" for i in range(n)]
    if n < 3 * at_least:
        with pytest.raises(TooFewClassesError, match=f"has {n} class"):
            split_classes(names, seed=seed, at_least=at_least)
        return
    split = split_classes(names, seed=seed, at_least=at_least)
    assert sorted(split["train"] + split["val"] + split["test"]) == list(range(n))
    assert min(len(classes) for classes in split.values()) >= at_least


@given(n=st.integers(3, 40), least=st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6)))
def test_each_split_may_ask_for_its_own_number(n: int, least: tuple[int, int, int]):
    wanted = dict(zip(("train", "val", "test"), least, strict=True))
    names = [str(i) for i in range(n)]
    if n < sum(least):
        with pytest.raises(TooFewClassesError, match=f"{sum(least)} in all"):
            split_classes(names, at_least=wanted)
        return
    split = split_classes(names, at_least=wanted)
    assert all(len(split[name]) >= wanted[name] for name in wanted)
    assert sorted(split["train"] + split["val"] + split["test"]) == list(range(n))


@given(order=st.permutations([f"class {i}" for i in range(10)]))
def test_a_split_does_not_depend_on_the_order_of_the_classes(order: list[str]):
    names = sorted(order)
    expected = {name: {names[c] for c in classes} for name, classes in split_classes(names).items()}
    assert {name: {order[c] for c in classes} for name, classes in split_classes(order).items()} == expected


def test_another_seed_is_another_split():
    names = [f"class {i}" for i in range(50)]
    assert [len(c) for c in split_classes(names).values()] == [30, 10, 10]
    assert split_classes(names, seed=0) != split_classes(names, seed=1)
    assert shuffled(names, 0) == shuffled(names, 0)


def test_too_few_classes_say_what_to_do():
    with pytest.raises(TooFewClassesError) as error:
        split_classes(["a", "b"], what="my_images", hint="Or do something else.")
    assert str(error.value) == (
        "my_images has 2 classes: too few for disjoint train, val and test splits of at least 2 classes each (6 in "
        "all). Add classes, or use all of them to evaluate a learner that was trained on other data: kshot evaluate "
        "RUN --data, or split='all' in Python. Or do something else."
    )
    with pytest.raises(TooFewClassesError, match="ask for a way of at most 3"):
        split_classes([str(i) for i in range(11)], at_least=5)


def test_splits_that_share_a_name_are_refused():
    first, second = pool_of(1, 1, 1), Pool.from_sorted(images(2), [1, 1], ["c2", "other"])
    with pytest.raises(
        OverlappingSplitsError,
        match=r"expected train and test to have no class in common, but 1 class is in both \(of the same name\): c2",
    ):
        check_disjoint({"train": first, "test": second})


def test_splits_that_share_kin_or_rows_are_refused():
    x = images(4)
    both = Pool(x, [0, 0, 2], [2, 2, 2], [0, 1, 0], [0, 0, 1], ("a", "a turned", "b"))
    with pytest.raises(OverlappingSplitsError, match=r"one kin, such as rotations of one character\): a turned"):
        check_disjoint({"train": both.select([0, 2]), "val": both.select([1])})
    rows = Pool(x, [0, 1], [2, 3], [0, 0], [0, 1], ("a", "overlapping"))
    with pytest.raises(OverlappingSplitsError, match=r"of the same examples\): overlapping"):
        check_disjoint({"train": rows.select([0]), "val": rows.select([1])})
    check_disjoint({"train": both.select([0, 1]), "test": both.select([2]), "val": both.select([])})


def test_kin_of_different_storage_are_no_kin():
    check_disjoint({"train": pool_of(1, 1), "test": Pool.from_sorted(images(1), [1], ["unseen"])})
