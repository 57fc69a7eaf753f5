"""What a pipeline has done: for each step the digests of what went into it, and what came out.

The state is one JSON file that is replaced atomically, so that a pipeline that is killed at any moment knows what it
had finished. A step is skipped when the digests of its inputs are the recorded ones and its outputs are still there.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kshot.errors import ArtifactError

FORMAT = 1


def digest(*parts: Any) -> str:
    """A digest of JSON-able values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, atomically.

    Raises:
        RunError: no permission, or no space.
    """
    from kshot.artifacts.atomic import atomic_file

    atomic_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class State:
    """The record of a project's steps, in `path`.

    Raises:
        ArtifactError: the file is no state, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                found = content["format"]
                self.steps = content["steps"] if found == FORMAT else {}
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(f"{path} is damaged ({error}): remove it, and all steps are done anew") from error
            if found != FORMAT:
                raise ArtifactError(
                    f"{path} has format {found}, expected {FORMAT}: another version of kshot wrote it. Remove it, and "
                    "all steps are done anew"
                )

    def finished(self, step: str) -> dict[str, Any] | None:
        """The record of a step that was finished: `inputs`, `at`, `seconds`, `result`, `outputs`."""
        record = self.steps.get(step)
        return record if record is not None and record["status"] == "finished" else None

    def interrupted(self, step: str, inputs: dict[str, str]) -> bool:
        """Whether the step was begun with these inputs, and not finished."""
        record = self.steps.get(step)
        return record is not None and record["status"] == "started" and record["inputs"] == inputs

    def start(self, step: str, inputs: dict[str, str]) -> None:
        """Records that a step is begun."""
        self.steps[step] = {"status": "started", "inputs": inputs, "at": _now()}
        self._save()

    def finish(
        self, step: str, inputs: dict[str, str], *, seconds: float, result: dict[str, Any], outputs: list[str]
    ) -> None:
        """Records that a step is done."""
        self.steps[step] = {
            "status": "finished",
            "inputs": inputs,
            "at": _now(),
            "seconds": round(seconds, 1),
            "result": result,
            "outputs": outputs,
        }
        self._save()

    def _save(self) -> None:
        write_json(self.path, {"format": FORMAT, "steps": self.steps})


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
