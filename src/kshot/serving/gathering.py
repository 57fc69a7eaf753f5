"""Stored tasks as a dataset: what was really asked, for a learner to be refined on.

A folder that `kshot train --data` reads: `train/TASK/LABEL/1.png`, and `val` and `test` beside it. A task is in one of
them with all its classes, by its id alone, so that the next gathering puts it where this one did. Only what lies in the
database is gathered: an example that was erased is in no folder that is made after that.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from sqlalchemy import select
from sqlalchemy.engine import Connection, make_url
from torch import Tensor

from kshot.artifacts import load_learner
from kshot.artifacts.atomic import atomic_folder
from kshot.datasets.gathered import MANIFEST, is_gathered
from kshot.errors import ConfigError, DataError, suggest
from kshot.serving.payloads import unpack_example
from kshot.serving.settings import Settings
from kshot.serving.store import journal, registry
from kshot.serving.store.database import Database
from kshot.serving.store.rows import unpack
from kshot.serving.store.tables import examples, feedback, tasks, tenants, versions
from kshot.serving.vault import Vault, about_example, about_feedback

SHARES = (("train", 0.7), ("val", 0.85), ("test", 1.0))
"""The splits, and where each ends on the unit interval that ids of tasks are spread over."""


@dataclass
class Gathered:
    """What was gathered.

    Attributes:
        tasks: by split.
        examples: labelled examples, feedback not counted.
        feedback: queries whose true label came later.
        left: what was left out, by why.
        tenants: whose it is.
    """

    tasks: Counter[str] = field(default_factory=Counter)
    examples: int = 0
    feedback: int = 0
    left: Counter[str] = field(default_factory=Counter)
    tenants: set[str] = field(default_factory=set)

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "tasks": dict(self.tasks),
            "examples": self.examples,
            "feedback": self.feedback,
            "left_out": dict(self.left),
        }


def gather(
    database: Database,
    vault: Vault,
    out: Path,
    *,
    of: Sequence[str] = (),
    model: str | None = None,
    inverted: Collection[str] = (),
) -> Gathered:
    """Writes the images of stored tasks into a folder, in place of one that was gathered before.

    Args:
        of: names of tenants; all, where none is named.
        model: only tasks of the model of this name.
        inverted: names of models whose images are stored as negatives of the files that they came from (a transform's
            `invert`), which they are to be again.

    Raises:
        ConfigError: no such tenant; a folder that holds something else.
        DataError: there is nothing to gather: examples are kept with `retention: raw` alone.
    """
    if out.exists() and not is_gathered(out):
        raise ConfigError(f"{out} is there, and was not gathered from a server: name a folder that is not there yet")
    ids = _tenants(database, of)
    found = Gathered()
    with atomic_folder(out) as folder:
        folder.chmod(0o700)
        for row, label, name, x in _images(database, vault, ids, model, found):
            found.tenants.add(row.tenant)
            place = folder / split_of(row.id) / row.id / folder_name(label)
            place.mkdir(parents=True, exist_ok=True)
            _write(255 - x if row.model in inverted else x, place / f"{name}.png")
        _drop_single(folder, found)
        splits = sorted(folder.iterdir())
        found.tasks.update({split.name: sum(1 for _ in split.iterdir()) for split in splits})
        if not found.tasks:
            raise DataError(_nothing(found))
        if not {"train", "test"} <= set(found.tasks):  # too few tasks for splits: whoever reads them makes some
            for split in splits:
                for task_folder in split.iterdir():
                    task_folder.rename(folder / task_folder.name)
                split.rmdir()
        (folder / MANIFEST).write_text(json.dumps(found.document(), indent=2) + "\n")
    _note(database, found)
    return found


def _note(database: Database, found: Gathered) -> None:
    """In the audit log of each tenant whose images were taken out."""

    def change(connection: Connection) -> None:
        for tenant in sorted(found.tenants):
            journal.note(connection, "data.gather", tenant=tenant)

    database.write(change).result()


def _drop_single(folder: Path, found: Gathered) -> None:
    """Takes away classes of one example, which make no task, and what is empty then."""
    for place in sorted(folder.glob("*/*/*")):
        files = list(place.iterdir())
        if len(files) == 1:
            found.left["the only one of its class"] += 1
            if files[0].name.startswith("feedback-"):
                found.feedback -= 1
            else:
                found.examples -= 1
            files[0].unlink()
            place.rmdir()
    for place in [*folder.glob("*/*"), *folder.iterdir()]:
        if not any(place.iterdir()):
            place.rmdir()


def split_of(task: str) -> str:
    """The split of a task, by its id."""
    at = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big") / 2**64
    return next(name for name, end in SHARES if at < end)


def folder_name(label: str) -> str:
    """A label as the name of a folder, whatever is in it.

    >>> folder_name("cat"), folder_name("../a b"), folder_name("..")
    ('cat', '%2E.%2Fa%20b', '%2E.')
    """
    name = quote(label, safe="")
    if len(name) > 200:  # a file system's names end at 255
        name = f"{name[:180]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"
    return f"%2E{name[1:]}" if name.startswith(".") else name  # which would be hidden, or no name at all


def _tenants(database: Database, names: Sequence[str]) -> set[str] | None:
    if not names:
        return None
    with database.reading() as connection:
        known = {row.name: row.id for row in connection.execute(select(tenants.c.name, tenants.c.id))}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no tenant {name!r}. {suggest(name, known)}")
    return {known[name] for name in names}


def _images(
    database: Database, vault: Vault, of: set[str] | None, model: str | None, found: Gathered
) -> Iterator[tuple[Any, str, str, Tensor]]:
    """The task's row, label, name and pixels of what may be gathered; the rest is counted."""
    with database.reading() as connection:
        query = select(tasks.c.id, tasks.c.version, tasks.c.tenant, tasks.c.model).order_by(tasks.c.id)
        rows = connection.execute(query).all()
    for row in rows:
        if (of is not None and row.tenant not in of) or (model is not None and row.model != model):
            continue
        with database.reading() as connection:
            number = (versions.c.task == row.id) & (versions.c.number == row.version)
            members = connection.execute(select(versions.c.members).where(number)).scalar_one_or_none()
            kept = connection.execute(select(examples).where(examples.c.task == row.id)).all()
            told = connection.execute(select(feedback).where(feedback.c.task == row.id)).all()
        wanted = set(unpack(members or ""))
        for one in kept:
            if one.number not in wanted:
                continue
            if one.form != "raw":
                found.left["features alone are kept (retention: adaptation)"] += 1
                continue
            x, label = unpack_example(vault.open(bytes(one.content), about_example(row.id, one.number)))
            if label is None:
                found.left["no label"] += 1
            elif _is_image(x, found):
                found.examples += 1
                yield row, label, str(one.number), x
        for one in told:
            x, label = unpack_example(vault.open(bytes(one.content), about_feedback(row.id)))
            if label is not None and x.numel() and _is_image(x, found):
                found.feedback += 1
                yield row, label, f"feedback-{one.id}", x


def _is_image(x: Tensor, found: Gathered) -> bool:
    image = x.dtype == torch.uint8 and x.ndim == 3 and x.shape[0] in (1, 3)
    if not image:
        found.left["no image"] += 1
    return image


def _write(x: Tensor, path: Path) -> None:
    from PIL import Image

    Image.fromarray((x[0] if len(x) == 1 else x.permute(1, 2, 0)).contiguous().numpy()).save(path)


def _nothing(found: Gathered) -> str:
    why = "; ".join(f"{count:,} examples left out: {reason}" for reason, count in found.left.items())
    return (
        f"there are no stored images to gather ({why or 'no tasks'}): a server keeps them with the setting "
        "retention: raw"
    )


def check_there(settings: Settings) -> None:
    """Raises ConfigError where the database or its key are files that are not there: neither is to be made."""
    url = make_url(settings.database)
    files = [Path(settings.master_key)]
    if url.get_backend_name() == "sqlite" and url.database:
        files.append(Path(url.database))
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"there is no file {file}: run this where the server does, or say --settings FILE (or --database URL)"
            )


def inverted_models(database: Database, model: str | None) -> set[str]:
    """The names of the models whose images are stored as negatives of what was sent: their transforms say so.

    Args:
        model: the name of the only one that is asked about.
    """
    with database.reading() as connection:
        known = registry.current(connection)
        asked = set(connection.execute(select(tasks.c.model).distinct()).scalars()) if model is None else {model}
    transforms = {name: load_learner(known[name].path)[0].transform for name in sorted(asked & set(known))}
    return {name for name, transform in transforms.items() if getattr(transform, "polarity", None) == "invert"}
