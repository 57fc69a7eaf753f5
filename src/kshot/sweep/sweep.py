"""`sweep`: trials until there are enough, and what they found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.study import Study
from optuna.trial import TrialState

from kshot.artifacts.atomic import atomic_file
from kshot.errors import RunError
from kshot.sweep.held_out import held_out
from kshot.sweep.results import SweepResult
from kshot.sweep.spec import SweepSpec
from kshot.sweep.study import BASE, HEARTBEAT, REASON, finished, open_study
from kshot.sweep.trial import Objective, Unusable
from kshot.training.config import build_source

HOPELESS = 5
"""Trials that fail before any that does not: then the sweep is at fault."""


def sweep(
    spec: SweepSpec,
    out: str | Path,
    *,
    storage: str | None = None,
    device: str | None = None,
    data_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    heartbeat: int = HEARTBEAT,
) -> SweepResult:
    """Trains with other values until there are as many trials as were asked for, by this process and all others.

    Trials are compared, and ended early, on one half of the val classes; those that end are scored on the other half.
    Test classes are not looked at. What the base has is tried first, where it is in the space.

    Args:
        spec: what is tried.
        out: the folder: runs in `trials/`, the database, the report.
        storage: address of another database, which other machines reach.
        device: that trains, in place of the base's.
        data_dir: where local copies of data lie.
        say: told of each trial.
        heartbeat: seconds between the signs of life of a trial; without three of them it is taken over.

    Raises:
        ConfigError: the data has too few val classes; the database has another sweep of this name.
        RunError: the database cannot be reached; no trial could be trained.
        KeyboardInterrupt: Ctrl-C, after the trial was saved: the next sweep goes on with it.
    """
    out, where = Path(out), None if data_dir is None else str(data_dir)
    source = build_source(spec.config({}), where)
    own = spec.own_values(source)
    if spec.confirm:
        source, confirming = held_out(source, spec.seed)
    else:
        confirming = None
    with open_study(spec, storage, out, source.kind == "classification", heartbeat) as study:
        if own is None:
            say("what the base has is not in the space: it is no trial")
        elif not study.get_trials(deepcopy=False):
            study.enqueue_trial(own, user_attrs={BASE: True}, skip_if_exists=True)
        _make_trials(study, Objective(spec, study, source, confirming, out, device, where, say))
        result = SweepResult.of(study, spec, source.kind)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in result.files().items():
        atomic_file(out / name, content)
    return result


def _make_trials(study: Study, objective: Objective) -> None:
    """Until there are enough.

    Raises:
        RunError: all of the first ones failed.
    """
    while len(done := finished(study)) < objective.spec.trials:
        failed = [trial for trial in done if trial.state == TrialState.FAIL]
        if len(failed) == len(done) >= HOPELESS:
            reasons = dict.fromkeys(str(trial.user_attrs[REASON]) for trial in failed)
            raise RunError(f"none of {len(failed)} trials could be trained: {'; '.join(reasons)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.optimize(objective, n_trials=1, catch=(Unusable,))
