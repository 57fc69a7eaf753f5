"""A learner trained further on what was asked, with its old tasks among the new: `kshot train --init`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import Kshot
from PIL import Image

import kshot as library
from kshot.artifacts import from_pretrained


@pytest.fixture
def run(kshot: Kshot) -> str:
    kshot(
        "train", "--learner", "protonet", "--data", "glyphs", "--way", 3, "--shot", 1, "--query", 2, "--steps", 2,
        "--set", "data.options.examples=4", "--set", "backbone={name: conv4, channels: 4}", "--out", "runs/old",
    )  # fmt: skip
    return "runs/old"


@pytest.fixture
def asked() -> str:
    rng = np.random.default_rng(0)
    for c in range(16):
        place = Path("asked") / f"task_{c // 4}" / f"class {c}"
        place.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(place / f"{i}.png")
    return "asked"


def test_a_run_goes_on_on_other_data(run: str, asked: str, kshot: Kshot) -> None:
    said = kshot("train", "--init", run, "--data", asked, "--replay", 0.5, "--steps", 3, "--out", "runs/new").stdout
    assert "share: 0.5" in said
    old, new = from_pretrained(run), from_pretrained("runs/new")
    assert type(new) is type(old)
    assert new.transform.to_dict() == old.transform.to_dict()
    moved = [not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True)]
    assert any(moved)
    assert new.provenance["weights"]["path"].endswith("runs/old")
    # It begins where the other ended: a step that is hardly one leaves it there.
    kshot("train", "--init", run, "--data", asked, "--steps", 1, "--set", "training.lr=1e-12", "--out", "runs/same")
    same = from_pretrained("runs/same")
    for a, b in zip(old.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    # What it was trained on before counts as seen, and it can be evaluated on both.
    found = json.loads(kshot("evaluate", "runs/new", "--tasks", 5, "--json").stdout)
    assert found
    source = library.tasks.load(**new.provenance["source"])
    assert source.name == "asked+glyphs"


def test_what_cannot_go_on(run: str, asked: str, kshot: Kshot) -> None:
    both = kshot("train", "--init", run, "--learner", "maml", "--data", asked, code=2).stderr
    assert "expected --init RUN or --learner, got both" in both
    alone = kshot("train", "--data", asked, "--replay", 0.5, code=2).stderr
    assert "expected --replay beside --init RUN" in alone
    assert "there is no" in kshot("train", "--init", "runs/none", "--data", asked, code=1).stderr
    assert "between 0 and 1" in kshot("train", "--init", run, "--data", asked, "--replay", 2, code=2).stderr
