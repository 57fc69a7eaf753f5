"""One way to data: `load` takes a registered name, or the path of a folder, a zip or a CSV."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kshot.datasets.dataset import Dataset
from kshot.datasets.download import Progress, RemoteFile, fetch
from kshot.errors import ConfigError, DatasetNotFoundError, suggest

_BUILT_IN = {
    "cifar_fs": "kshot.datasets.cifar_fs",
    "csv": "kshot.datasets.csv",
    "digits": "kshot.datasets.digits",
    "folder": "kshot.datasets.folder",
    "glyphs": "kshot.datasets.glyphs",
    "omniglot": "kshot.datasets.omniglot",
}
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_COMMON = ("data_dir", "skip_bad", "seed")

Load = TypeVar("Load", bound=Callable[..., Dataset])


@dataclass(frozen=True)
class Entry:
    """A registered dataset.

    Attributes:
        name: what `load` calls it.
        load: makes the `Dataset`. It is given those of `data_dir` (a Path), `skip_bad` and `seed` that it names; its
            other parameters are the dataset's options.
        description, licence, source, citation: for people.
        files: what it needs in `<data_dir>/<name>/`; none where it makes its examples itself.
    """

    name: str
    load: Callable[..., Dataset]
    description: str
    licence: str
    source: str
    citation: str = ""
    files: tuple[RemoteFile, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The dataset's own options with their defaults (`inspect.Parameter.empty` where one is required)."""
        parameters = inspect.signature(self.load).parameters
        return {name: p.default for name, p in parameters.items() if name not in _COMMON}

    def missing(self, data_dir: Path) -> list[RemoteFile]:
        """The files that are not there."""
        return [file for file in self.files if not file.present(data_dir / self.name)]


_entries: dict[str, Entry] = {}


def register(
    name: str,
    *,
    description: str,
    licence: str = "none stated",
    source: str = "",
    citation: str = "",
    files: tuple[RemoteFile, ...] = (),
) -> Callable[[Load], Load]:
    """Registers a function that loads a dataset (a decorator); see `Entry` for what it is given.

    Raises:
        ConfigError: the name is taken by another function.
    """

    def decorate(function: Load) -> Load:
        taken = _entries.get(name)
        if taken is not None and taken.load.__qualname__ != function.__qualname__:
            raise ConfigError(f"a dataset called {name!r} is registered already, by {taken.load.__module__}")
        _entries[name] = Entry(name, function, description, licence, source, citation, files)
        return function

    return decorate


def names() -> list[str]:
    """The names of all registered datasets, sorted."""
    return sorted({*_BUILT_IN, *_entries})


def entry(name: str) -> Entry:
    """The registered dataset of that name.

    Raises:
        DatasetNotFoundError: there is none; the message suggests the nearest.
    """
    if name not in _entries and name in _BUILT_IN:
        importlib.import_module(_BUILT_IN[name])
    if name not in _entries:
        raise DatasetNotFoundError(
            f"there is no dataset called {name!r}. {suggest(name, names())} Where data are loaded, the path of a "
            "folder with a subfolder per class, of a zip of one, or of a CSV file works too"
        )
    return _entries[name]


def resolve_data_dir(data_dir: str | Path | None = None) -> Path:
    """Where local copies lie: the argument, else $KSHOT_DATA, else kshot's folder in the user's data directory."""
    chosen = data_dir or os.environ.get("KSHOT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "kshot"


def info(name: str, data_dir: str | Path | None = None) -> dict[str, Any]:
    """What is known of a dataset without loading it: JSON-able.

    Returns:
        `name, description, licence, source, citation, options, available, location, missing, urls`; `available` says
        whether it loads without a network, `missing` which of its files are not in `location`.
    """
    found = entry(name)
    folder = resolve_data_dir(data_dir)
    missing = found.missing(folder)
    options = {key: None if value is inspect.Parameter.empty else value for key, value in found.options.items()}
    return {
        "name": found.name,
        "description": found.description,
        "licence": found.licence,
        "source": found.source,
        "citation": found.citation,
        "options": options,
        "available": not missing,
        "location": str(folder / name) if found.files else None,
        "missing": [file.name for file in missing],
        "urls": [file.urls[0] for file in found.files if file.urls],
    }


def get(name: str, data_dir: str | Path | None = None, *, progress: Progress | None = None) -> list[Path]:
    """Downloads what a dataset needs and is not there yet; a transfer that broke off is taken up where it stopped.

    Args:
        name: a registered dataset.
        data_dir: where to put it: files go to `<data_dir>/<name>/`.
        progress: called with (file name, bytes so far, bytes in all or None); by default a progress bar on a terminal,
            else a plain line now and then.

    Returns:
        The paths of the dataset's files; empty for one that needs none.

    Raises:
        ChecksumError: what came is not what was published.
        DatasetNotFoundError: no such dataset, or no mirror answered.
        DataError: no space, or no permission to write.
    """
    found = entry(name)
    return fetch(found.files, resolve_data_dir(data_dir) / name, progress=progress)


def unpublished(name: str, data_dir: str | Path | None = None) -> dict[str, str]:
    """Which files of a dataset lie here but are not the published ones, and how they differ, in words.

    They are used as they are: an archive that was packed again has another checksum and the same content.

    Raises:
        DatasetNotFoundError: no such dataset.
    """
    folder = resolve_data_dir(data_dir) / name
    found = {str(folder / file.name): file.unpublished(folder) for file in entry(name).files}
    return {path: problem for path, problem in found.items() if problem is not None}


def load(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """Loads a dataset, without a network.

    Args:
        name_or_path: a registered name (`names()`), or the path of a folder, a zip or a CSV. A name wins over a folder
            of the same name; write `./digits` for the folder.
        data_dir: where local copies lie; by default $KSHOT_DATA, else `~/.local/share/kshot`.
        skip_bad: leave out files that cannot be decoded, and count them in `info["bad_files"]`, instead of raising.
        seed: what classes are dealt out by, where a dataset has no splits of its own.
        **options: the dataset's own; see `info(name)["options"]`.

    Raises:
        DatasetNotFoundError: no such name or path, or the dataset's files are not in `data_dir`.
        ConfigError: an option that the dataset does not have.
        DataError: its files are not what they should be (`kshot.errors` lists the kinds).
    """
    found, path = find(name_or_path)
    name = found.name
    if path is not None:
        options = {"path": path, **options}
    known = found.options
    for option in options:
        if option not in known:
            hint = suggest(option, known) if known else f"{name} has no options."
            raise ConfigError(f"{name} has no option {option!r}. {hint}")
    lacking = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in options]
    if lacking:
        raise ConfigError(f"{name} needs {lacking[0]}=: give it, or the path itself in place of {name!r}")
    if "path" in options:
        options["path"] = Path(options["path"]).expanduser().absolute()
    common = {"data_dir": resolve_data_dir(data_dir), "skip_bad": skip_bad, "seed": seed}
    takes = inspect.signature(found.load).parameters
    dataset = found.load(**{key: value for key, value in common.items() if key in takes}, **options)
    spec: dict[str, Any] = {"name_or_path": name, "seed": seed, **known, **options}
    if data_dir is not None and found.files:
        spec["data_dir"] = str(Path(data_dir).expanduser().absolute())
    if skip_bad:
        spec["skip_bad"] = True
    return dataclasses.replace(
        dataset,
        info={**describe(found), **dataset.info},
        spec={key: _plain(value) for key, value in spec.items()},
    )


def describe(found: Entry) -> dict[str, Any]:
    """The part of `Dataset.info` that the registry knows."""
    return {key: getattr(found, key) for key in ("description", "licence", "source", "citation")}


def find(name_or_path: str | Path) -> tuple[Entry, Path | None]:
    """The dataset that `load` would load, and the path where it is a user's own data.

    Raises:
        DatasetNotFoundError: no such name or path.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text in names():
        return entry(text), None
    path = Path(text).expanduser()
    if path.is_dir():
        return entry("folder"), path
    if path.is_file():
        if text.lower().endswith(TABLE_SUFFIXES):
            return entry("csv"), path
        if text.lower().endswith(".zip"):
            return entry("folder"), path
        raise DatasetNotFoundError(
            f"expected a folder, a .zip or a {' or '.join(TABLE_SUFFIXES[:2])} file, got {path}. A data set of images "
            "is a folder, or a zip, with a subfolder per class"
        )
    if isinstance(name_or_path, Path) or os.sep in text or "/" in text or path.suffix:
        raise DatasetNotFoundError(f"there is no file or folder {path}. Check the path; it is relative to {Path.cwd()}")
    return entry(text), None  # raises, and suggests the nearest name


def _plain(value: Any) -> Any:
    """An option as JSON can say it."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
