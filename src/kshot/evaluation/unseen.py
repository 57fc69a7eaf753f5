"""Which classes a learner may be evaluated on: those that it has never seen."""

from __future__ import annotations

from kshot.errors import OverlappingSplitsError, TooFewClassesError, few
from kshot.learners.base import Learner
from kshot.tasks.split import TaskSplit
from kshot.training.seen import names_data, recorded_classes, run_folder, same_data, seen_classes, seen_hashes


def unseen_split(learner: Learner, split: TaskSplit, *, allow_seen: bool = False) -> tuple[TaskSplit, list[str]]:
    """The split as the learner may be evaluated on it, with notes for the reader.

    On the data that the learner was trained on, those are the test classes that its run recorded, whatever has been
    added since. Other data is compared by content: a class of which the learner has seen any example, in training or in
    validation, is refused, whatever it is called there.

    Args:
        allow_seen: evaluate nevertheless, with a note that says so.

    Raises:
        OverlappingSplitsError: the learner has seen some of the classes; they are named.
        TooFewClassesError: none of the recorded test classes, or too few, are left.
    """
    pool, provenance = split.pool, learner.provenance
    if pool is None:
        return split, []
    recorded = recorded_classes(learner)
    if not provenance.get("source") and not recorded and run_folder(learner) is None:
        return split, [
            "what this learner was trained on is not recorded: whether it has seen these classes cannot be checked"
        ]
    spec = split._source.spec if split._source is not None else {}
    own, hashes, problem = same_data(provenance.get("source"), spec), None, ""
    if not own:
        hashes, problem = seen_hashes(learner)
        # Of data made in memory, without a run folder, the classes' names are all that there is to go by.
        if hashes is None and not names_data(provenance.get("source")) and recorded:
            own = set(pool.names) <= {c for names in recorded.values() for c in names}
    notes: list[str] = []
    if own and recorded.get("test") and split.name == "test":
        kept = [name in set(recorded["test"]) for name in pool.names]
        if all(kept):
            return split, notes
        if not any(kept):
            raise TooFewClassesError(
                f"none of the {len(recorded['test'])} test classes that the run recorded are in {split}: "
                "the data has changed since. Give the data that it was trained on, or other data"
            )
        dropped = len(kept) - sum(kept)
        notes.append(
            f"{dropped} class{'es' if dropped > 1 else ''} of the data that the run did not record for testing left out"
        )
        return split.subset(kept), notes
    if own:
        names = {c for part in ("train", "val") for c in recorded.get(part, _source_names(split, part))}
        seen = [name in names for name in pool.names]
    else:
        if hashes is None:
            return split, [f"whether the learner has seen these classes cannot be checked: {problem}"]
        seen = seen_classes(pool, hashes)
    if not any(seen):
        return split, notes
    names_seen = [name for name, is_seen in zip(pool.names, seen, strict=True) if is_seen]
    listed = few(names_seen)
    if allow_seen:
        return split, [f"{len(names_seen)} of the {len(pool)} classes are not new to the learner: {listed}"]
    raise OverlappingSplitsError(
        f"expected classes that this {type(learner).__name__} has never seen, but of the {len(pool)} classes of "
        f"{split} it has seen {len(names_seen)} in training or validation: {listed}. Leave those out, or evaluate on "
        "other data (allow_seen=True scores them all the same and says so)"
    )


def _source_names(split: TaskSplit, part: str) -> list[str]:
    """The class names of another split of the same source."""
    source = split._source
    pool = source.splits[part].pool if source is not None and part in source.splits else None
    return [] if pool is None else list(pool.names)
