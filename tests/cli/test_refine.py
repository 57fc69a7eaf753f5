"""A learner trained further on what was asked, its old tasks among the new (`kshot train --init`), and promoted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import Kshot
from PIL import Image

import kshot as library
from kshot.artifacts import from_pretrained, load_learner
from kshot.datasets import cache
from kshot.evaluation.promotion import Promotion
from kshot.metrics import Interval
from kshot.serving.registering import serve_from_now_on
from kshot.serving.store import registry
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate
from kshot.tasks.replay import not_to_forget


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


def test_what_was_gathered_is_neither_replayed_nor_kept(run: str, asked: str, kshot: Kshot) -> None:
    """The next gathering holds what is still stored: an older folder would bring back what was erased since."""
    (Path(asked) / "gathered.json").write_text("{}")
    before = set(cache.cache_dir().rglob("folder-*"))
    kshot("train", "--init", run, "--data", asked, "--replay", 0.5, "--steps", 2, "--out", "runs/first")
    assert set(cache.cache_dir().rglob("folder-*")) <= before, "its images are in no cache"
    shutil.copytree(asked, "again")
    words = ("--init", "runs/first", "--data", "again", "--replay", 0.5, "--steps", 2, "--out", "runs/second")
    said = kshot("train", *words)
    assert "name_or_path: glyphs" in said.stdout.partition("replay:")[2]
    second = from_pretrained("runs/second").provenance["source"]
    assert second["replay"]["name_or_path"] == "glyphs", "the old tasks, and not those of the gathering before"
    assert second["replay"]["share"] == 0.5
    # What may not be forgotten is still what the first one learned: its unseen classes are asked about.
    assert not_to_forget(second)["name_or_path"] == "glyphs"
    assert "replay" not in not_to_forget(second)
    refused = kshot("promote", "runs/second", "--over", "runs/first", "--data", "again", "--tasks", 5, code=1)
    assert "old tasks" in refused.stdout
    # Trained on nothing else, it has nothing to replay.
    kshot("train", "--init", run, "--data", asked, "--steps", 1, "--out", "runs/alone")
    alone = kshot("train", "--init", "runs/alone", "--data", "again", "--replay", 0.5, code=2).stderr
    assert "runs/alone was trained on" in alone
    assert "which was gathered from a server" in alone
    assert "Leave out --replay" in alone


def test_what_cannot_go_on(run: str, asked: str, kshot: Kshot) -> None:
    both = kshot("train", "--init", run, "--learner", "maml", "--data", asked, code=2).stderr
    assert "expected --init RUN or --learner, got both" in both
    alone = kshot("train", "--data", asked, "--replay", 0.5, code=2).stderr
    assert "expected --replay beside --init RUN" in alone
    assert "there is no" in kshot("train", "--init", "runs/none", "--data", asked, code=1).stderr
    assert "between 0 and 1" in kshot("train", "--init", run, "--data", asked, "--replay", 2, code=2).stderr


def test_a_candidate_that_is_no_better_is_not_promoted(run: str, asked: str, kshot: Kshot) -> None:
    refused = kshot("promote", run, "--over", run, "--data", asked, "--tasks", 5, code=1)
    assert "new tasks" in refused.stdout
    assert f"{run} is not promoted: it is not surely better on the new tasks: +0.00 points" in refused.stderr
    assert "there is no" in kshot("promote", "runs/none", "--over", run, "--data", asked, code=1).stderr


def test_one_that_is_better_is_noted_for_the_servers(
    run: str, asked: str, kshot: Kshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = Interval(0.1, 0.01, 5)

    def better(*_: object, tasks: int, tolerance: float, **__: object) -> Promotion:
        return Promotion((sure, sure), (sure, sure), sure, sure, tolerance, tasks)

    monkeypatch.setattr("kshot.evaluation.promotion.promotion", better)
    words = ("promote", run, "--over", run, "--data", asked, "--tasks", 5)
    assert "say --database to have it served" in kshot(*words).stdout
    database = Database("sqlite:///kshot.db")
    migrate(database)
    refused = kshot(*words, "--database", "sqlite:///kshot.db", code=2).stderr
    assert "know no model 'old', but none: say --name" in refused
    database.write(lambda c: registry.add(c, digest="0" * 64, name="mine", path="elsewhere", info={})).result()
    stale = kshot(*words, "--database", "sqlite:///kshot.db", "--name", "mine", code=2).stderr
    assert "another model is served as mine by now, the one in elsewhere: compare with that (--over)" in stale
    digest = load_learner(run)[1]
    database.write(lambda c: registry.promote(c, digest=digest, name="mine", path="here", info={})).result()
    said = kshot(*words, "--database", "sqlite:///kshot.db", "--name", "mine").stdout
    assert "is served as mine from now on" in said
    with database.reading() as connection:
        known = registry.current(connection)["mine"]
    database.close()
    assert known.path == str(Path(run).absolute())
    assert known.digest == load_learner(run)[1]


def test_back_to_the_model_that_was_served_before(run: str, asked: str, kshot: Kshot) -> None:
    kshot("train", "--init", run, "--data", asked, "--steps", 2, "--out", "runs/next")
    url = "sqlite:///kshot.db"
    back = ("promote", run, "--back", "--name", "mine", "--database", url)
    assert "was never served as mine" in kshot(*back, code=2).stderr
    for served in (run, "runs/next"):
        assert serve_from_now_on(url, served, "mine", tasks=4) == ""
    said = kshot(*back).stdout
    assert f"{run} is served as mine from now on" in said
    database = Database(url)
    with database.reading() as connection:
        assert registry.current(connection)["mine"].digest == load_learner(run)[1]
        assert registry.of_digest(connection, load_learner("runs/next")[1]) is not None, "which it can go back to, too"
    database.close()
    more = kshot("promote", run, "--back", "--over", run, "--name", "mine", "--database", url, code=2).stderr
    assert "expected --name and --database beside --back, and neither --over nor --data" in more
    assert "expected --over RUN" in kshot("promote", run, "--data", asked, code=2).stderr
