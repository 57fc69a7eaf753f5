"""The study of a sweep: Optuna's, in a database, worked on by any number of processes."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot.errors import ConfigError, MissingExtraError, RunError
from kshot.sweep.spec import SweepSpec

try:
    import optuna
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler
    from optuna.storages import RDBStorage
    from optuna.trial import TrialState
    from sqlalchemy.exc import DBAPIError

    from kshot.databases import address, shown
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("optuna", "sweep") from error

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from sqlalchemy.engine import URL

HEARTBEAT = 60
"""Seconds after which a process says that it is still at its trial."""

GONE = 3
"""Heartbeats that are missing before a trial is somebody else's."""

SPEC = "spec"
"""Attribute of a study: what it tries."""

BASE, GOES_ON = "base", "goes on with"
VAL, CONFIRM, SECONDS, FOLDER, REASON = "val", "confirm", "seconds", "folder", "reason"
"""Attributes of a trial: that it is of what the base has, the number of the one that it takes up, its score on val,
scores of the tasks that confirm it, seconds of training, the folder of its run, why it failed."""

DIVERGED = "diverged"
"""The reason of a training whose numbers did not stay finite."""

_ATTEMPTS = 10


class Numbered(BaseSampler):
    """A sampler that draws by a trial's number: neither two processes nor a restart draw the same again.

    Args:
        kind: `tpe` or `random`.
        seed: with the number and the results so far, all that a draw depends on.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.of_trial: BaseSampler = self._make(0)

    def _make(self, number: int) -> BaseSampler:
        seed = (self.seed * 1_000_003 + number) % 2**32
        return RandomSampler(seed=seed) if self.kind == "random" else TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.of_trial = self._make(trial.number)
        self.of_trial.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.of_trial.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.of_trial.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.of_trial.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.of_trial.after_trial(study, trial, state, values)


@contextlib.contextmanager
def open_study(
    spec: SweepSpec, storage: str | None, out: Path, maximize: bool, heartbeat: int = HEARTBEAT
) -> Iterator[Study]:
    """The study of a sweep: begun, or taken up as it is. Its connections end with the block.

    Args:
        spec: the sweep.
        storage: address of its database; by default a file in `out`.
        out: the folder of the sweep.
        maximize: whether more is better.
        heartbeat: seconds between the signs of life of a trial.

    Raises:
        ConfigError: no address of a database; a study of this name that is another sweep.
        RunError: the database cannot be reached.
    """
    place = address(storage or f"sqlite:///{out / 'sweep.db'}")
    if place.get_backend_name() == "sqlite" and place.database not in (None, "", ":memory:"):
        Path(str(place.database)).parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what happens is said by the sweep
    opened = _connect(place, heartbeat)
    try:
        with _said_in_words(place):
            study = optuna.create_study(
                storage=opened,
                sampler=Numbered(spec.sampler, spec.seed),
                pruner=_pruner(spec),
                study_name=spec.name,
                direction="maximize" if maximize else "minimize",
                load_if_exists=True,
            )
        _check_same(spec, study)
        yield study
    finally:
        opened.remove_session()
        opened.engine.dispose()


def _connect(place: URL, heartbeat: int) -> RDBStorage:
    """A database with Optuna's tables, made where they are missing."""
    for attempt in range(_ATTEMPTS):
        try:
            with _said_in_words(place), warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
                return RDBStorage(
                    place.render_as_string(hide_password=False),
                    heartbeat_interval=heartbeat,
                    grace_period=GONE * heartbeat,
                    heartbeat_stale_trial_callback=take_over,
                )
        except RunError as error:
            # Processes that begin at once make the same tables: all but one are told that they are there.
            made = any(words in str(error).lower() for words in ("already exists", "duplicate", "unique", "locked"))
            if not made or attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError("the loop returns or raises")


@contextlib.contextmanager
def _said_in_words(place: URL) -> Iterator[None]:
    """What goes wrong with the database, as a KshotError."""
    try:
        yield
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        what = " ".join(str(getattr(error, "orig", error)).split())
        told = shown(place.render_as_string(hide_password=False))  # SQLAlchemy shows those that follow the ?
        raise RunError(f"the database {told} cannot be used: {what}") from error
    except ImportError as error:
        raise MissingExtraError(str(error.name or "psycopg"), "sweep") from error


def take_over(study: Study, trial: FrozenTrial) -> None:
    """Has a trial done again whose process is gone or was interrupted: from its last checkpoint, if there is one."""
    first = trial.user_attrs.get(GOES_ON, trial.number)
    if trial.params:  # else it had not begun
        kept = {key: trial.user_attrs[key] for key in (BASE,) if key in trial.user_attrs}
        study.enqueue_trial(trial.params, user_attrs={**kept, GOES_ON: first})


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that count: done, pruned, or failed for a reason of their own."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [
        t
        for t in study.get_trials(deepcopy=False, states=states)
        if t.state != TrialState.FAIL or REASON in t.user_attrs
    ]


def _pruner(spec: SweepSpec) -> Any:
    if spec.pruner == "none":
        return optuna.pruners.NopPruner()
    if spec.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=5)


def _check_same(spec: SweepSpec, study: Study) -> None:
    """Raises ConfigError where the study is another sweep's."""
    mine = json.loads(json.dumps(spec.identity()))
    theirs = study.user_attrs.get(SPEC)
    if theirs is None:
        study.set_user_attr(SPEC, mine)
    elif theirs != mine:
        changed = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
        raise ConfigError(
            f"the database has a sweep {spec.name!r} already, which differs in {', '.join(changed)}: give this one "
            "another name, or another --out or --storage"
        )
