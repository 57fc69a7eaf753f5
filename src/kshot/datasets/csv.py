"""`csv`: a table with a label column; its numbers are the features, its texts become one-hot."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kshot.datasets.archive import MAX_MEMBER_BYTES
from kshot.datasets.dataset import Dataset
from kshot.datasets.pool import Pool
from kshot.datasets.registry import register
from kshot.datasets.splits import SPLITS, split_classes
from kshot.datasets.transform import Column, TableTransform, Transform, as_transform
from kshot.errors import ConfigError, DataError, DatasetNotFoundError, suggest

_LABELS = ("label", "target", "class")
_MISSING = ("", "na", "n/a", "nan", "null", "?")
_MOST_TEXTS = 100


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes:
        path: its file.
        header: the names of the feature columns.
        rows: the cells of the feature columns, stripped.
        labels: of each row.
        lines: the line of the file that each row stands in.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    labels: list[str]
    lines: list[int]

    def columns(self) -> tuple[Column, ...]:
        """The features that the columns become.

        Raises:
            DataError: a column of texts has more than a hundred different ones.
        """
        found: list[Column] = []
        for c, name in enumerate(self.header):
            texts = {row[c] for row in self.rows if not _is_missing(row[c])}
            odd = [text for text in texts if _number(text) is None]
            if not odd:
                found.append(Column(name))
                continue
            if len(texts) > _MOST_TEXTS:
                r = next(r for r, row in enumerate(self.rows) if row[c] in odd)
                raise DataError(
                    f"expected numbers, or at most {_MOST_TEXTS} different texts, in column {name!r} of {self.path}, "
                    f"got {len(texts):,} different values; the first that is no number is {self.rows[r][c]!r} in line "
                    f"{self.lines[r]}. Correct it, or leave the column out with drop=[{name!r}]"
                )
            found += [Column(name, text) for text in sorted(texts)]
        return tuple(found)

    def encode(self, transform: TableTransform) -> Tensor:
        """The features float32 `[n, d]`, not yet standardised.

        Raises:
            DataError: a column is not there; a cell is empty (unless the transform fills it in), or is no number.
        """
        index = {name: c for c, name in enumerate(self.header)}
        absent = [column.name for column in transform.columns if column.name not in index]
        if absent:
            raise DataError(f"{self.path} has no column {absent[0]!r}. {suggest(absent[0], self.header)}")
        known: dict[str, set[str]] = {}
        for column in transform.columns:
            if column.value is not None:
                known.setdefault(column.name, set()).add(column.value)
        values = torch.empty((len(self.rows), len(transform.columns)), dtype=torch.float64)
        for f, column in enumerate(transform.columns):
            c = index[column.name]
            mean = transform.mean[f] if transform.missing == "mean" else None
            cells = [self._cell(r, c, column, known.get(column.name), mean) for r in range(len(self.rows))]
            values[:, f] = torch.tensor(cells, dtype=torch.float64)
        return values.to(torch.float32)

    def _cell(self, r: int, c: int, column: Column, known: set[str] | None, mean: float | None) -> float:
        text = self.rows[r][c]
        where = f"line {self.lines[r]}, column {column.name!r} of {self.path}"
        if _is_missing(text):
            if mean is None:
                raise DataError(
                    f"a value is missing in {where}: it is {text!r}. Fill it in; or train with the option "
                    "missing='mean' (--set data.options.missing=mean), which puts the column's mean there"
                )
            return mean
        if known is not None:
            if text not in known:
                raise DataError(f"expected one of {', '.join(sorted(known))} in {where}, got {text!r}")
            return float(text == column.value)
        number = _number(text)
        if number is None or not math.isfinite(number):
            raise DataError(f"expected a finite number in {where}, got {text!r}: correct it, or leave the row out")
        return number


@register(
    "csv",
    description="your own table: a label column, numbers and texts as features; .csv or .tsv, also gzipped",
    licence="yours",
    source="path=",
)
def load(
    *,
    path: Path,
    label: str | None = None,
    drop: Sequence[str] = (),
    missing: str = "error",
    split: str = "auto",
    at_least: int | Mapping[str, int] = 2,
    transform: Transform | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads a table whose first line names its columns.

    Args:
        path: the file; separated by comma, semicolon or tab.
        label: the label column; by default one called label, target or class, else the last.
        drop: columns to leave out.
        missing: "error" names the first empty cell; "mean" fills in the mean of the training classes.
        split: "auto": classes are dealt out by `seed`, 60/20/20; "all": every class goes to `test`.
        at_least: the fewest classes that each split must hold: one number, or one by the name of each.
        transform: how a learner that exists already reads such a table; by default features are standardised by the
            training classes (with split="all", by all rows).
        seed: another seed, other splits.

    Raises:
        TooFewClassesError: too few classes for three disjoint splits.
        DataError: an empty cell, a ragged row, an unknown column, no features.
    """
    if split not in ("auto", "all"):
        raise ConfigError(f"expected split to be 'auto' or 'all', got {split!r}")
    given = as_transform(transform)
    if given is not None and not isinstance(given, TableTransform):
        raise ConfigError(
            f"{path} is a table, but the learner was trained on {given.reads}: give it data of that kind (images: a "
            "folder or zip with a subfolder per class), or use a learner of tables"
        )
    table = read_table(path, label=label, drop=drop)
    names = sorted(set(table.labels))
    if split == "all":
        chosen: dict[str, list[int]] = {"train": [], "val": [], "test": list(range(len(names)))}
    else:
        hint = "Or skip meta-training: kshot.FewShotClassifier().fit(features, labels)"
        chosen = split_classes(names, seed=seed, at_least=at_least, what=str(path), hint=hint)
    learned = {names[c] for c in chosen["train"] or chosen["test"]}
    final = given or _standardised(table, [name in learned for name in table.labels], missing)
    pool = Pool.from_arrays(table.encode(final), table.labels)
    pools = {name: pool.select(chosen[name]) for name in SPLITS}
    stem = path.name.split(".")[0]
    return Dataset(stem, pools["train"], pools["val"], pools["test"], final, {"source": str(path)})


def read_table(path: Path, *, label: str | None = None, drop: Sequence[str] = ()) -> Table:
    """Reads the cells of a table.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: it is no text, empty, ragged, or lacks a column or labels.
    """
    header, lines = _cells(path, at_least=2)
    label = _label_column(header, label, path)
    for name in drop:
        if name not in header:
            raise DataError(f"{path} has no column {name!r} to drop. {suggest(name, header)}")
    kept = [c for c, name in enumerate(header) if name != label and name not in drop]
    if not kept:
        raise DataError(f"{path} has no feature columns: expected some beside the label column {label!r}")
    at = header.index(label)
    table = Table(path, [header[c] for c in kept], [], [], [])
    for line, cells in lines:
        if _is_missing(cells[at]):
            raise DataError(
                f"the label is missing in line {line}, column {label!r} of {path}. Fill it in, or delete the line"
            )
        table.rows.append([cells[c] for c in kept])
        table.labels.append(cells[at])
        table.lines.append(line)
    return table


def read_rows(path: Path) -> Table:
    """Reads the cells of a table to predict: no column is taken for a label, and none of its rows has one.

    Raises:
        DatasetNotFoundError: there is no such file.
        DataError: it is no text, empty, or ragged.
    """
    header, lines = _cells(path, at_least=1)
    return Table(path, header, [cells for _, cells in lines], [""] * len(lines), [line for line, _ in lines])


def _cells(path: Path, *, at_least: int) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows with their lines, all of one length."""
    lines = _lines(path)
    header = next(lines, (0, []))[1]
    if len(header) < at_least:
        wanted = "two column names or more" if at_least > 1 else "column names"
        raise DataError(f"expected a first line with {wanted} in {path}, got {header}")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"the column {twice[0]!r} stands twice in the first line of {path}. Rename one")
    rows = list(lines)
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"expected {len(header)} cells in line {line} of {path}, got {len(cells)}")
    if not rows:
        raise DataError(f"{path} has a header and no rows: expected an example a line")
    return header, rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows, stripped, with the number of the line that each ends in."""
    if not path.is_file():
        raise DatasetNotFoundError(f"there is no file {path}")
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"expected text in UTF-8 in {path}, got other bytes ({error}). Save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {path} is no row of a table: {error}") from error


def _bytes(path: Path) -> bytes:
    if not path.name.lower().endswith(".gz"):
        return path.read_bytes()
    with gzip.open(path) as file:
        raw = file.read(MAX_MEMBER_BYTES + 1)
    if len(raw) > MAX_MEMBER_BYTES:
        raise DataError(f"{path} unpacks to more than {MAX_MEMBER_BYTES:,} bytes. Unpack it yourself if you trust it")
    return raw


def _label_column(header: list[str], label: str | None, path: Path) -> str:
    if label is not None:
        if label not in header:
            raise DataError(f"{path} has no column {label!r}. {suggest(label, header)}")
        return label
    usual = [name for wanted in _LABELS for name in header if name.lower() == wanted]
    return usual[0] if usual else header[-1]


def _standardised(table: Table, learned: list[bool], missing: str) -> TableTransform:
    """The transform with the mean and standard deviation of each feature over the rows that are `learned`."""
    columns = table.columns()
    index = {name: c for c, name in enumerate(table.header)}
    means, stds = [], []
    for column in columns:
        cells = [row[index[column.name]] for row, use in zip(table.rows, learned, strict=True) if use]
        there = [text for text in cells if not _is_missing(text)]
        values = torch.tensor(
            [_number(text) or 0.0 if column.value is None else float(text == column.value) for text in there],
            dtype=torch.float64,
        )
        mean = float(values.mean()) if there else 0.0
        std = float(values.std(correction=0)) if there else 0.0
        # Rounded, as it is saved in single precision anyhow; a feature that never varied is left as it is.
        means.append(mean if math.isfinite(mean) else 0.0)
        stds.append(std if math.isfinite(std) and std > 1e-12 else 1.0)
    return TableTransform(columns, tuple(means), tuple(stds), missing)


def _is_missing(text: str) -> bool:
    return text.lower() in _MISSING


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
