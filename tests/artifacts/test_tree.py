"""Pytrees to named tensors and a JSON document, through a file, and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kshot.artifacts import flatten, load_tensors, save_tensors, unflatten
from kshot.episodes import Examples, Unlabeled
from kshot.errors import ArtifactError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    tensor = (4 * torch.randn(shape, generator=generator)).to(dtype)
    if dtype.is_floating_point and tensor.numel():
        tensor.view(-1)[0] = draw(st.sampled_from([0.0, math.nan, math.inf, -math.inf]))
    if len(shape) > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    return tensor


keys = st.one_of(st.text(max_size=5), st.integers(), st.sampled_from(["a", "a.b", "b", "classes"]))
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
trees = st.recursive(
    st.one_of(tensors(), plain),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(keys, children, max_size=3),
    ),
    max_leaves=8,
)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.contiguous().view(-1).view(torch.uint8).tolist() == b.contiguous().view(-1).view(torch.uint8).tolist()
        if a.numel() > 1 and all(size > 1 for size in a.shape):
            assert a.stride() == b.stride()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    else:
        assert a == b


@given(tree=trees)
def test_a_tree_comes_back_bit_for_bit(tmp_path_factory, tree):
    shape, parts = flatten(tree)
    path = save_tensors(tmp_path_factory.mktemp("tree") / "x.safetensors", parts)
    text = json.dumps(shape, allow_nan=False)
    assert_same(tree, unflatten(json.loads(text), load_tensors(path)[0]))


def test_examples_are_nodes():
    support = Examples.of(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))
    again = unflatten(*flatten({"support": support}))["support"]
    assert isinstance(again, Examples)
    assert again.x is support.x
    assert again.padded is False
    assert again.unlabeled is None
    unlabeled = Unlabeled.of(torch.randn(3, 2))
    shape, parts = flatten(replace(support, unlabeled=unlabeled))
    again = unflatten(json.loads(json.dumps(shape)), parts)
    assert torch.equal(again.unlabeled.x, unlabeled.x)
    assert again.unlabeled.padded is False


def test_a_json_document_is_a_tree():
    document = {"json": {"prompt": "Classify:", "shots": [["a photo", "cat"]], "temperature": 0.0, "stop": None}}
    shape, parts = flatten(document)
    assert parts == {}
    assert unflatten(json.loads(json.dumps(shape)), {}) == document


def test_what_is_no_tree():
    with pytest.raises(ArtifactError, match=r"tuples of tensors \(or JSON values\), got a builtins.set at adapted.a.0"):
        flatten({"a": [{1, 2}]})
    with pytest.raises(ArtifactError, match="expected the keys of adapted to be strings or integers, got None"):
        flatten({None: torch.zeros(1)})


def test_what_is_no_tensor(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"expected dense tensors to save, got 'a': a tensor of layout torch.sparse_coo"
    ):
        save_tensors(tmp_path / "x", {"a": torch.eye(2).to_sparse()})
    assert not list(tmp_path.iterdir())


def test_a_damaged_description():
    with pytest.raises(ArtifactError, match="adapted state is damaged .KeyError: 'gone'"):
        unflatten({"list": [{"tensor": "gone"}]}, {})
    with pytest.raises(ArtifactError, match="a node of kind 'graph', which this version of kshot does not know"):
        unflatten({"graph": 1}, {})
