"""The pipeline's choice of a learner: a fixed one, or the best of short runs at equal budgets on the same val tasks."""

from __future__ import annotations

import json
from typing import Any

from kshot.cli.parts import run_config, source_of
from kshot.cli.state import digest, write_json
from kshot.cli.walk import Context, Outcome
from kshot.errors import KshotError

CANDIDATES = "candidates.json"
"""The scores of those that were tried so far."""


def learner_section(context: Context) -> Any:
    choice = context.project.learner
    if choice.choose != "auto":
        return choice.choose
    left_out = ("steps", "val_every", "val_tasks", "device")
    training = {k: v for k, v in context.project.training.items() if k not in left_out}
    return [choice.model_dump(), context.project.backbone, training]


def choose_learner(context: Context) -> Outcome:
    choice = context.project.learner
    if choice.choose != "auto":
        learner = {"name": choice.choose} if isinstance(choice.choose, str) else choice.choose
        run_config(context, learner)  # raises for one that there is not
        return Outcome({"learner": learner}, f"{learner['name']}, as the project says")
    path = context.out / CANDIDATES
    scores: dict[str, Any] = {}
    if context.resume and path.is_file():
        scores = json.loads(path.read_text(encoding="utf-8"))
    for candidate in choice.candidates:
        key = digest(candidate)
        if key not in scores:
            scores[key] = {"learner": candidate, **try_candidate(context, candidate)}
            write_json(path, scores)
        context.say(describe_candidate(scores[key]))
    tried = [scores[digest(candidate)] for candidate in choice.candidates]
    fit = [one for one in tried if one.get("val") is not None]
    if not fit:
        raise KshotError("none of the candidates can do these tasks: " + "; ".join(one["problem"] for one in tried))
    best = max(fit, key=lambda one: one["val"] if one["higher_is_better"] else -one["val"])
    # Seconds differ from one time to the next, and decide nothing.
    recorded = [{key: value for key, value in one.items() if key != "seconds"} for one in tried]
    line = f"{best['learner']['name']}: the best on val tasks after {choice.steps} steps each"
    return Outcome({"learner": best["learner"], "candidates": recorded}, line, [CANDIDATES])


def try_candidate(context: Context, candidate: dict[str, Any]) -> dict[str, Any]:
    """The val score of a candidate after a short run; or why it has none."""
    from kshot.metrics import METRICS
    from kshot.training.config import build_trainer

    choice = context.project.learner
    try:
        config = run_config(
            context, candidate, steps=choice.steps, val_every=choice.steps, val_tasks=choice.val_tasks, patience=None
        )
        result = build_trainer(config, source=source_of(context), out=None).fit()
    except KshotError as error:
        return {"val": None, "problem": f"{candidate.get('name')}: {error}"}
    if result.val is None:
        return {"val": None, "problem": f"{candidate.get('name')}: there are no val tasks to score it on"}
    return {
        "val": float(result.val.mean),
        "half_width": float(result.val.half_width),
        "higher_is_better": METRICS[source_of(context).kind] == "accuracy",
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
    }


def describe_candidate(one: dict[str, Any]) -> str:
    if one.get("val") is None:
        return f"left out: {one['problem']}"
    name = one["learner"]["name"]
    score = (
        f"{100 * one['val']:.2f} ± {100 * one['half_width']:.2f} % of val tasks' queries right"
        if one["higher_is_better"]
        else f"mean squared error {one['val']:.4f} ± {one['half_width']:.4f} on val tasks"
    )
    return f"{name}: {score}, in {one['seconds']:.0f} s"
