"""What a sweep found: the best trials, confirmed; what mattered; a configuration with the best values."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kshot.evaluation.text import columns, duration, show, title
from kshot.metrics import METRICS, Interval, interval, paired_difference
from kshot.sweep.spec import SweepSpec, short
from kshot.sweep.study import BASE, CONFIRM, DIVERGED, FOLDER, REASON, SECONDS, VAL, finished
from kshot.yaml_keys import put

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

ENOUGH = 10
"""Trials to their end, below which importances are noise."""


@dataclass(frozen=True)
class TrialResult:
    """A trial.

    Attributes:
        number: counted from 0.
        state: `complete`, `pruned` or `fail`.
        values: by path of the configuration.
        value: the score that it was chosen by; None where it has none.
        val: the same with its interval.
        confirm: scores of the tasks that nothing is chosen on, one by one; empty where there are none.
        seconds: of training.
        folder: of its run.
        reason: why it failed, or diverged.
        curve: scores at the steps at which it was validated.
        base: whether its values are the base's.
    """

    number: int
    state: str
    values: dict[str, Any]
    value: float | None
    val: Interval | None
    confirm: tuple[float, ...]
    seconds: float | None
    folder: str | None
    reason: str | None
    curve: dict[int, float]
    base: bool = False

    @classmethod
    def of(cls, trial: FrozenTrial, spec: SweepSpec) -> TrialResult:
        told = trial.user_attrs
        val = told.get(VAL)
        half = None if val is None else val["half_width"]
        return cls(
            number=trial.number,
            state=trial.state.name.lower(),
            values={path: spec.space[path].value(name) for path, name in trial.params.items() if path in spec.space},
            value=trial.value if trial.state.name == "COMPLETE" else None,
            val=None if val is None else Interval(val["mean"], float("inf") if half is None else half, val["n"]),
            confirm=tuple(told.get(CONFIRM) or ()),
            seconds=told.get(SECONDS),
            folder=told.get(FOLDER),
            reason=told.get(REASON),
            curve=dict(trial.intermediate_values),
            base=bool(told.get(BASE)),
        )

    @property
    def confirmed(self) -> Interval | None:
        """Their mean; infinite where the learner diverged on one of them."""
        if not self.confirm:
            return None
        return interval(list(self.confirm)) if self._finite else Interval(math.inf, math.inf, len(self.confirm))

    @property
    def _finite(self) -> bool:
        return all(math.isfinite(score) for score in self.confirm)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the tasks one by one."""
        return {
            "number": self.number,
            "state": self.state,
            "base": self.base,
            "values": self.values,
            "val": None if self.val is None else self.val.to_dict(),
            "confirm": None if self.confirmed is None else self.confirmed.to_dict(),
            "seconds": self.seconds,
            "folder": self.folder,
            "reason": self.reason,
        }


@dataclass
class SweepResult:
    """All trials of a sweep; printing gives its report.

    Attributes:
        spec: what was tried.
        kind: of the tasks.
        trials: by number, those that are neither under way nor taken up by another.
        importance: of each key, the share of the variance of ranks that it explains (fANOVA, Hutter et al. 2014);
            empty where `no_importance` says why.
    """

    spec: SweepSpec
    kind: str
    trials: list[TrialResult]
    importance: dict[str, float]

    @classmethod
    def of(cls, study: Study, spec: SweepSpec, kind: str) -> SweepResult:
        trials = [TrialResult.of(trial, spec) for trial in finished(study)]
        result = cls(spec, kind, sorted(trials, key=lambda trial: trial.number), {})
        if not result.no_importance:
            import optuna

            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=spec.seed)
            # Of ranks: one trial that nearly diverged would be all of the variance of errors.
            order = sorted(float(t.value) for t in trials if t.value is not None)
            found = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=lambda trial: float(order.index(float(trial.value or 0.0)))
            )
            result.importance = {path: float(share) for path, share in found.items()}
        return result

    @property
    def no_importance(self) -> str:
        """Why no importance is told; empty where it is."""
        if len(self.spec.space) == 1:
            return "the space has one key alone"
        if len(self.ranked) < ENOUGH:
            return f"fewer than {ENOUGH} trials came to their end"
        if len({trial.value for trial in self.ranked}) == 1:
            return "all scores are the same"
        if len({json.dumps(trial.values, sort_keys=True) for trial in self.ranked}) == 1:
            return "all trials to their end have the same values"
        return ""

    @property
    def metric(self) -> str:
        return METRICS[self.kind]

    @property
    def ranked(self) -> list[TrialResult]:
        """Trials to their end, the best on val first."""
        sign = -1 if self.kind == "classification" else 1
        complete = [trial for trial in self.trials if trial.value is not None]
        return sorted(complete, key=lambda trial: sign * float(trial.value or 0.0))

    @property
    def best(self) -> TrialResult | None:
        return next(iter(self.ranked), None)

    @property
    def base(self) -> TrialResult | None:
        """The trial of what the base has; None where that is not in the space, or did not come to its end."""
        return next((trial for trial in self.trials if trial.base and trial.value is not None), None)

    @property
    def gain(self) -> Interval | None:
        """The best one's scores less the base's on the same tasks, on which nothing was chosen."""
        best, base = self.best, self.base
        if best is None or base is None or best.base:
            return None
        if not best.confirm or not base.confirm or not (best._finite and base._finite):
            return None
        return paired_difference(list(best.confirm), list(base.confirm))

    def head(self) -> str:
        """One line: how many trials of what."""
        count = Counter(DIVERGED if trial.reason == DIVERGED else trial.state for trial in self.trials)
        spent = sum(trial.seconds or 0.0 for trial in self.trials)
        return (
            f"{self.spec.name}: {len(self.trials)} trials, {count['complete']} to their end, {count['pruned']} pruned, "
            f"{count[DIVERGED]} diverged, {count['fail']} failed; {duration(spent)} of training"
        )

    def rows(self) -> list[list[str]]:
        """The best trials, the head of the table first."""
        score = title(self.metric)
        table = [["", *self.spec.space, f"{score}, chosen on", *([f"{score}, held out"] if self.spec.confirm else [])]]
        shown = self.ranked[: self.spec.top]
        if self.base is not None and self.base not in shown:
            shown.append(self.base)
        for trial in shown:
            name = f"trial {trial.number}" + (" (base)" if trial.base else "")
            row = [name, *(short(trial.values.get(path)) for path in self.spec.space)]
            row.append("-" if trial.val is None else show(trial.val, self.metric))
            if self.spec.confirm:
                row.append("-" if trial.confirmed is None else show(trial.confirmed, self.metric))
            table.append(row)
        return table

    def notes(self) -> list[str]:
        """What a reader of the table has to know."""
        lines = []
        if self.gain is not None:
            lines.append(
                f"The best less the base, held out, on the same tasks: {show(self.gain, self.metric, sign=True)}."
            )
        if self.spec.confirm:
            lines.append(
                "Chosen on: val tasks that trials were compared on; the best of many owes a part of it to chance. Held "
                "out: "
                + ("other val classes" if self.kind == "classification" else "other functions")
                + ", on which nothing was chosen. Test was not looked at."
            )
        else:
            lines.append("Nothing is held out (confirm: false): the best score owes a part of it to chance.")
        lines.append("± is half of the 95% interval over tasks; other training seeds vary on top of it.")
        if self.importance:
            told = ", ".join(f"{path} {share:.2f}" for path, share in self.importance.items())
            lines.append(f"Importance (share of the variance of ranks that a key explains, fANOVA): {told}.")
        else:
            lines.append(f"Importance is not told: {self.no_importance}.")
        reasons: dict[str, list[str]] = {}
        for trial in self.trials:
            if trial.reason is not None:
                reasons.setdefault(trial.reason, []).append(str(trial.number))
        return lines + [f"Trial {', '.join(numbers)}: {reason}" for reason, numbers in reasons.items()]

    def __str__(self) -> str:
        return "\n".join([self.head(), "", *columns(self.rows()), "", *self.notes()])

    def to_markdown(self) -> str:
        """The same as a page."""
        head, *rows = self.rows()
        ruler = ["---", *["---:"] * (len(head) - 1)]
        table = ["| " + " | ".join(cell or " " for cell in row) + " |" for row in [head, ruler, *rows]]
        return "\n".join([f"# {self.head()}", "", *table, "", *(f"- {note}" for note in self.notes())]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.spec.name,
            "metric": self.metric,
            "spec": self.spec.model_dump(mode="json"),
            "best": None if self.best is None else self.best.to_dict(),
            "gain": None if self.gain is None else self.gain.to_dict(),
            "importance": self.importance,
            "trials": [trial.to_dict() for trial in self.trials],
        }

    def best_config(self) -> dict[str, Any]:
        """The base with the best values, as `kshot train` takes it; its run has a folder of its own."""
        content: dict[str, Any] = json.loads(json.dumps(self.spec.base))
        values: Mapping[str, Any] = {} if self.best is None else self.best.values
        for path, value in values.items():
            put(content, path, value)
        content["out"] = f"runs/{self.spec.name}-best"
        return content

    def files(self) -> dict[str, str | bytes]:
        """What a sweep leaves in its folder, by name."""
        import yaml

        from kshot.artifacts.plain import finite
        from kshot.sweep.plot import picture

        files: dict[str, str | bytes] = {
            "sweep.json": json.dumps(finite(self.to_dict()), indent=2, ensure_ascii=False) + "\n",
            "sweep.md": self.to_markdown(),
            "sweep.png": picture(self),
        }
        if self.best is not None:
            files["best.yaml"] = yaml.safe_dump(self.best_config(), sort_keys=False, allow_unicode=True)
        return files
