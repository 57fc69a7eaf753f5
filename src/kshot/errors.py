"""Every error that kshot raises on purpose.

::

    KshotError
    ├── DataError (ValueError)            raw data that cannot become labelled pools
    │   ├── ImageError                    a file that is no image, is truncated, or is a decompression bomb
    │   ├── ChecksumError                 an archive whose content is not what its checksum says
    │   ├── UnsafeArchiveError            an archive whose paths climb out of their folder
    │   ├── DatasetNotFoundError          no such dataset, or its files are nowhere to be found
    │   ├── TooFewClassesError            fewer classes than the task's way, or than three disjoint splits need
    │   ├── TooFewExamplesError           a class with fewer examples than shot + query
    │   └── OverlappingSplitsError        two splits that share a class
    ├── SupportError (ValueError)         a support set that no learner can adapt to
    ├── UnsupportedError (ValueError)     a learner or an engine asked for what it cannot do
    ├── ConfigError (ValueError)          a configuration that says something unknown or impossible
    ├── ArtifactError (ValueError)        a saved learner, adapted task or checkpoint that does not fit
    ├── RunError (OSError)                a run folder that cannot be used: not empty, not writable, disk full
    ├── DivergedError (ArithmeticError)   a training whose loss or gradient is no longer finite
    └── MissingExtraError (ImportError)   an optional dependency that is not installed

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class KshotError(Exception):
    """Base of all errors that kshot raises on purpose; the CLI prints its message without a traceback."""


class DataError(KshotError, ValueError):
    """Raw data that cannot become labelled pools."""


class ImageError(DataError):
    """A file that is no image, is truncated, or is larger than the pixel limit."""


class ChecksumError(DataError):
    """An archive whose content is not what its checksum says."""


class UnsafeArchiveError(DataError):
    """An archive with a path that climbs out of its folder."""


class DatasetNotFoundError(DataError):
    """No dataset of that name, or its files are nowhere to be found."""


class TooFewClassesError(DataError):
    """Fewer classes than the task's way, or than disjoint splits need."""


class TooFewExamplesError(DataError):
    """A class with fewer examples than shot + query."""


class OverlappingSplitsError(DataError):
    """Two splits that share a class."""


class SupportError(KshotError, ValueError):
    """A support set that no learner can adapt to."""


class UnsupportedError(KshotError, ValueError):
    """A learner or an engine asked for what it cannot do."""


class ConfigError(KshotError, ValueError):
    """A configuration that says something unknown or impossible."""


class ArtifactError(KshotError, ValueError):
    """A saved learner, adapted task or checkpoint that does not fit what reads it."""


class RunError(KshotError, OSError):
    """A run folder that cannot be used: not empty, not writable, or on a full disk."""


class DivergedError(KshotError, ArithmeticError):
    """A training whose loss or gradient is no longer finite."""


class LostProcessError(KshotError, ConnectionError):
    """Processes that train together, of which one is gone, or cannot be reached."""


class ElsewhereError(KshotError):
    """What went wrong in another process, which says so itself."""


class MissingExtraError(KshotError, ImportError):
    """An optional dependency that is not installed.

    Args:
        package: what could not be imported.
        extra: the extra of kshot that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Install it with: pip install 'kshot[{extra}]'")
        self.package = package
        self.extra = extra


def few(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are.

    >>> few(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or lists all of them where none is near.

    >>> suggest("omniglt", ["omniglot", "digits"])
    "Did you mean 'omniglot'?"
    >>> suggest("zzz", ["omniglot", "digits"])
    'Known: digits, omniglot.'
    """
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names)}."
