"""Puts the learner of a finished quickstart run into the package, as `characters`.

kshot quickstart --out runs/quickstart
python tools/ship_characters.py runs/quickstart
"""

from __future__ import annotations

import sys
from pathlib import Path

import kshot
from kshot.artifacts import from_pretrained, save_pretrained


def main(run: str) -> None:
    learner = from_pretrained(run)
    # Where it was trained means nothing on another machine; what it was trained on does.
    learner.provenance = {key: value for key, value in learner.provenance.items() if key not in ("run", "path")}
    learner.provenance["config"] = "quickstart"
    folder = Path(kshot.__file__).parent / "shipped" / "characters"
    print(save_pretrained(learner, folder))


if __name__ == "__main__":
    main(sys.argv[1])
