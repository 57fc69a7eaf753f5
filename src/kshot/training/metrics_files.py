"""`metrics.jsonl` and `metrics.csv`: a row now and then, cut back to the checkpoint when a run is resumed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from kshot.errors import RunError

COLUMNS = ("step", "loss", "grad_norm", "lr", "val", "val_half_width", "tasks", "seconds", "tasks_per_second")
"""Of the CSV; a JSON row leaves out what it has no value for. Only the last two depend on the clock."""

NAMES = ("metrics.jsonl", "metrics.csv")


class MetricsFiles:
    """The two files of a run.

    Args:
        folder: of the run.
        offsets: how long the files were at the checkpoint that the run goes on from; what was written after it is
            written again. None for a new run.

    Raises:
        RunError: no permission, or no space.
    """

    def __init__(self, folder: Path, offsets: Mapping[str, int] | None = None) -> None:
        self._files: dict[str, BinaryIO] = {}
        self.history: list[dict[str, Any]] = []
        self._folder = folder
        try:
            for name in NAMES:
                path = folder / name
                file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 (closed by close)
                self._files[name] = file
                length = min((offsets or {}).get(name, 0), os.fstat(file.fileno()).st_size)
                file.truncate(length)
                file.seek(length)
            if not self._files["metrics.csv"].tell():
                self._write("metrics.csv", _csv_line(COLUMNS))
            self.history = _rows(folder / "metrics.jsonl")
        except OSError as error:
            self.close()
            raise _explained(error, folder) from error

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends a row."""
        row = {"step": step, **metrics}
        self.history.append(row)
        try:
            self._write("metrics.jsonl", json.dumps(row, allow_nan=False) + "\n")
            self._write("metrics.csv", _csv_line([row.get(name, "") for name in COLUMNS]))
        except OSError as error:
            raise _explained(error, self._folder) from error

    def offsets(self) -> dict[str, int]:
        """How long the files are, what is in them being on the disk."""
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _explained(error, self._folder) from error
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            try:
                file.close()
            except OSError:  # what cannot be written out any more; the checkpoint knows how much is good
                continue

    def _write(self, name: str, line: str) -> None:
        file = self._files[name]
        file.write(line.encode())
        file.flush()  # whoever watches the file sees it


def _csv_line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # someone edited it; it is of no consequence for the run
            continue
    return rows


def _explained(error: OSError, folder: Path) -> RunError:
    from kshot.training.checkpoint import kept_sentence

    kept = kept_sentence(folder / "checkpoints")
    explained = RunError(
        f"the metrics in {folder} cannot be written ({error.strerror or error}). {kept} Make room or change the "
        "permissions, "
        "then go on with the run: Trainer(..., resume=True)".replace("  ", " ")
    )
    explained.errno = error.errno
    return explained
