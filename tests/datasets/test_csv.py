from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kshot import datasets
from kshot.datasets import ImageTransform, TableTransform, read_support
from kshot.datasets.csv import read_table
from kshot.errors import ConfigError, DataError, DatasetNotFoundError, TooFewClassesError

HEADER = "height,colour,label\n"


def write(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(classes: int = 6, each: int = 3) -> str:
    return "".join(f"{c + i / 10},{'red' if i % 2 else 'blue'},c{c}\n" for c in range(classes) for i in range(each))


def test_numbers_and_texts_become_features(tmp_path: Path):
    dataset = datasets.load(write(tmp_path, HEADER + rows()))
    assert isinstance(dataset.transform, TableTransform)
    assert [(c.name, c.value) for c in dataset.transform.columns] == [
        ("height", None),
        ("colour", "blue"),
        ("colour", "red"),
    ]
    assert [len(pool) for pool in dataset.splits.values()] == [2, 2, 2]
    everything = datasets.load(tmp_path / "table.csv", split="all").test
    assert everything.names == tuple(f"c{c}" for c in range(6))
    assert torch.allclose(everything.images(2), torch.tensor([[2.0, 1, 0], [2.1, 0, 1], [2.2, 1, 0]]))


def test_features_are_standardised_by_the_training_classes(tmp_path: Path):
    dataset = datasets.load(write(tmp_path, HEADER + rows(10)))
    train = torch.cat([dataset.train.images(c) for c in range(len(dataset.train))])
    x = dataset.transform.normalise(train)
    assert x.mean(0).abs().max() < 1e-5
    assert (x.std(0, correction=0) - 1).abs().max() < 1e-5


def test_the_spec_loads_it_again(tmp_path: Path):
    dataset = datasets.load(write(tmp_path, HEADER + rows(9)), seed=2, drop=["colour"])
    again = datasets.load(**json.loads(json.dumps(dataset.spec)))
    assert again.test.names == dataset.test.names
    assert again.transform == dataset.transform


@pytest.mark.parametrize(
    ("header", "options", "expected"),
    [
        ("a,b,c", {}, "c"),
        ("Target,b,c", {}, "Target"),
        ("a,class,label", {}, "label"),
        ("a,b,label", {"label": "a"}, "a"),
    ],
)
def test_the_label_column(tmp_path: Path, header: str, options: dict[str, str], expected: str):
    table = read_table(write(tmp_path, header + "\n1,2,3\n"), **options)
    assert table.header == [name for name in header.split(",") if name != expected]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_separators_quotes_marks_and_gzip(tmp_path: Path, delimiter: str):
    lines = ["\ufeffa|b|label", '1| "x|y" |one', "", "2|z|two"]
    text = "\r\n".join(lines).replace("|", delimiter).replace(' "', '"').replace('" ', '"')
    path = tmp_path / "t.tsv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    table = read_table(path)
    assert table.header == ["a", "b"]
    assert table.rows == [["1", f"x{delimiter}y"], ["2", "z"]]
    assert table.labels == ["one", "two"]
    assert table.lines == [2, 4]


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=20))
def test_numbers_survive(tmp_path_factory: pytest.TempPathFactory, values: list[float]):
    text = "x,label\n" + "".join(f"{value!r},{i % 6}\n" for i, value in enumerate(values))
    dataset = datasets.load(write(tmp_path_factory.mktemp("csv"), text), split="all")
    found = sorted(float(v) for c in range(6) for v in dataset.test.images(c)[:, 0])
    assert found == sorted(values)


@pytest.mark.parametrize("empty", ["", "NA", "nan", "?", "NULL"])
def test_an_empty_cell_is_named_or_filled_in(tmp_path: Path, empty: str):
    path = write(tmp_path, HEADER + rows(6) + f"{empty},red,c0\n")
    with pytest.raises(DataError, match=r"a value is missing in line 20, column 'height' of .*missing='mean'"):
        datasets.load(path)
    dataset = datasets.load(path, missing="mean", split="all")
    expected = datasets.load(write(tmp_path, HEADER + rows(6), "whole.csv"), split="all").transform.mean[0]
    assert dataset.test.images(0)[-1, 0] == pytest.approx(expected)


def test_an_empty_text_is_filled_in_by_how_often_each_stands(tmp_path: Path):
    path = write(tmp_path, HEADER + rows(6, 4) + "1,,c0\n")
    assert datasets.load(path, missing="mean", split="all").test.images(0)[-1, 1:].tolist() == [0.5, 0.5]


def test_a_learners_transform_reads_another_table(tmp_path: Path):
    transform = datasets.load(write(tmp_path, HEADER + rows())).transform
    path = write(tmp_path, "colour,label,height\nred,new,7\nblue,new,8\nred,newer,9\n", "new.csv")
    dataset = datasets.load(path, transform=transform, split="all")
    assert dataset.transform == transform
    assert dataset.test.images(0).tolist() == [[7, 0, 1], [8, 1, 0]]
    x, labels, files = read_support(path, transform)
    assert x.tolist() == [[7, 0, 1], [8, 1, 0], [9, 0, 1]]
    assert labels == ["new", "new", "newer"]
    assert files[0] == f"{path}:2"
    with pytest.raises(DataError, match=r"expected one of blue, red in line 2, column 'colour' of .*, got 'green'"):
        read_support(write(tmp_path, "colour,label,height\ngreen,new,7\n", "odd.csv"), transform)
    with pytest.raises(DataError, match=r"has no column 'height'\. Did you mean 'heigth'\?"):
        read_support(write(tmp_path, "colour,label,heigth\nred,new,7\n", "odd.csv"), transform)
    with pytest.raises(ConfigError, match=r"\.csv is a table, but the learner was trained on images: give it"):
        datasets.load(path, transform=ImageTransform())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "expected a first line with two column names or more"),
        ("label\nx\n", {}, "two column names or more"),
        ("a,a,label\n1,2,x\n", {}, "the column 'a' stands twice"),
        ("a,label\n", {}, "has a header and no rows"),
        ("a,label\n1,x\n1,2,x\n", {}, "expected 2 cells in line 3 of .*, got 3"),
        ("a,label\n1,\n", {}, "the label is missing in line 2, column 'label'"),
        ("a,label\n1,x\n", {"label": "lable"}, r"has no column 'lable'. Did you mean 'label'\?"),
        ("a,label\n1,x\n", {"drop": ["b"]}, "has no column 'b' to drop"),
        ("a,label\n1,x\n", {"drop": ["a"]}, "has no feature columns"),
        ("a,label\ninf,x\n", {"split": "all"}, "expected a finite number in line 2, column 'a' of .*, got 'inf'"),
        ('a,label\n"1,x\n', {}, "is no row of a table"),
        ("a,label\n1,x\n", {"split": "some"}, "expected split to be"),
        (
            "a,label\n1,x\n",
            {"missing": "mode", "split": "all"},
            "missing to be one of error, mean, got 'mode'",
        ),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, options: dict[str, object], message: str):
    with pytest.raises((DataError, ConfigError), match=message):
        datasets.load(write(tmp_path, text), **options)


def test_a_typing_error_in_a_column_of_numbers_is_named(tmp_path: Path):
    text = "a,label\n" + "".join(f"{i},{i % 6}\n" for i in range(150)) + "1O,2\n"
    with pytest.raises(DataError, match=r"the first that is no number is '1O' in line 152.*drop=\['a'\]"):
        datasets.load(write(tmp_path, text))


def test_too_few_classes(tmp_path: Path):
    with pytest.raises(TooFewClassesError, match=r"has 3 classes.*kshot\.FewShotClassifier\(\)\.fit"):
        datasets.load(write(tmp_path, HEADER + rows(3)))


def test_files_that_are_no_text(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(b"a,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="expected text in UTF-8"):
        datasets.load(tmp_path / "t.csv")
    (tmp_path / "t.csv.gz").write_bytes(b"not gzipped")
    with pytest.raises(DataError, match="cannot be read"):
        datasets.load(tmp_path / "t.csv.gz")
    with pytest.raises(DatasetNotFoundError, match="there is no file"):
        read_table(tmp_path / "none.csv")


def test_a_packed_table_that_is_damaged_or_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b"a,b,label\n" + b"1,2,x\n" * 50)
    (tmp_path / "torn.csv.gz").write_bytes(packed[:15] + b"\xff\xff\xff" + packed[18:])
    with pytest.raises(DataError, match=r"torn.csv.gz cannot be read: "):
        datasets.load(tmp_path / "torn.csv.gz")
    (tmp_path / "bomb.csv.gz").write_bytes(packed)
    monkeypatch.setattr("kshot.datasets.csv.MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match="bomb.csv.gz unpacks to more than 100 bytes. Unpack it yourself"):
        datasets.load(tmp_path / "bomb.csv.gz")
