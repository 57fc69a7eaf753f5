"""Tasks of handwritten alphabets that a learner never held: whether their drift is found, whether what is suggested is
worth labelling, and whether a learner that is refined on them is promoted. Through the server and its commands, with
the files of Omniglot's evaluation set (`$KSHOT_DATA/omniglot`, or where `kshot data get omniglot` put it)."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from harness import Server, figure, keys, kshot_server
from letters import Letters

from kshot import datasets
from kshot.client import Client
from kshot.metrics import Interval, interval, proportion

PLACE = Path("runs/serving-alphabets")
"""Kept for the next time: the run that is served at first, and what it is trained on."""

FIRST = {"train": 20, "val": 4, "test": 6}
"""Of the background set's thirty alphabets; tenants bring the evaluation set's twenty."""

TASKS = 200
QUERIES = 50
LABELS = 10
CLASSES, EACH = 10, 20
"""Characters of a tenant's task in the stream, and drawings of each."""


@dataclass
class Alphabets:
    """PNG files by alphabet and character: each the same twenty people's drawings."""

    files: dict[str, dict[str, list[bytes]]] = field(default_factory=dict)

    @classmethod
    def read(cls, which: str = "evaluation") -> Alphabets:
        found = cls()
        with zipfile.ZipFile(datasets.resolve_data_dir(None) / "omniglot" / f"images_{which}.zip") as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
                _, alphabet, character, _ = name.split("/")
                found.files.setdefault(alphabet, {}).setdefault(character, []).append(archive.read(name))
        return found

    def draw(self, rng: random.Random, way: int, each: int) -> tuple[str, dict[str, list[bytes]]]:
        """An alphabet, and some of its characters with some of their drawings, in random order."""
        alphabet = rng.choice([name for name, own in self.files.items() if len(own) >= way])
        chosen = rng.sample(sorted(self.files[alphabet]), way)
        return alphabet, {name: rng.sample(self.files[alphabet][name], each) for name in chosen}


def kshot(*words: object, code: int = 0) -> dict[str, Any]:
    """The result of a command, which ends with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "kshot", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode != code or not done.stdout:
        raise SystemExit(f"kshot {' '.join(map(str, words))}: {done.returncode}\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def first_run() -> Path:
    """Trains the run that is served at first, where that was not done before: some minutes."""
    run, data = PLACE / "run", PLACE / "data"
    if not (run / "learner").is_dir():
        files = Alphabets.read("background").files
        names = random.Random(0).sample(sorted(files), len(files))
        for split, count in FIRST.items():
            for alphabet in [names.pop() for _ in range(count)]:
                for character, drawings in files[alphabet].items():
                    place = data / split / alphabet / character
                    place.mkdir(parents=True, exist_ok=True)
                    for i, content in enumerate(drawings):
                        (place / f"{i:02d}.png").write_bytes(content)
        kshot(
            "train", "--learner", "protonet", "--data", data.absolute(), "--way", 5, "--shot", 1, "--query", 10,
            "--set", "data.options={size: 28, channels: 1, polarity: invert}", "--set", "training.meta_batch=1",
            "--set", "data.train={way: 30, shot: 2, query: 4}", "--set", "training.val_every=250", "--steps", 1500,
            "--out", run, "--overwrite",
        )  # fmt: skip
    return run.absolute()


def flat(drawings: dict[str, list[bytes]], part: slice) -> tuple[list[bytes], list[str]]:
    """Some drawings of each character, and their labels."""
    pairs = [(file, name) for name, files in drawings.items() for file in files[part]]
    return [file for file, _ in pairs], [name for _, name in pairs]


def client_of(server: Server, secret: str) -> Client:
    return Client(f"http://127.0.0.1:{server.port}", secret)


# ---------------------------------------------------------------- drift


def drift(folder: Path, _: Letters) -> dict[str, Any]:
    """Alarms after 50 queries: drawings of the task's own characters, and of those of another alphabet."""
    run, alphabets = first_run(), Alphabets.read()
    rows, figures = [], []
    with kshot_server(folder, [str(run)]) as server, client_of(server, keys(folder, 1)[0]) as client:
        for shot in (1, 5):
            rng, alarms = random.Random(shot), {"own": 0, "other": 0}
            for _ in range(TASKS):
                alphabet, own = alphabets.draw(rng, 5, shot + QUERIES // 5)
                other, strange = alphabets.draw(rng, 5, QUERIES // 5)
                while other == alphabet:
                    other, strange = alphabets.draw(rng, 5, QUERIES // 5)
                support = flat(own, slice(0, shot))
                for kind, queries in (
                    ("own", flat(own, slice(shot, None))[0]),
                    ("other", flat(strange, slice(None))[0]),
                ):
                    task = client.create_task(*support)["id"]
                    client.predict(task, queries)
                    alarms[kind] += client.health(task)["drift"]["alarm"]
            rows.append({"shot": shot, "tasks": TASKS, "queries": QUERIES, "alarms": alarms})
            for kind, target, at_least in (("own", 0.05, False), ("other", 0.9, True)):
                low, high = proportion(alarms[kind], TASKS)
                what = "false alarms" if kind == "own" else "another alphabet found"
                name = f"drift, {shot}-shot, {QUERIES} queries: {what} ({low:.3f} to {high:.3f})"
                figures.append(figure(name, alarms[kind] / TASKS, target, at_least))
    return {"rows": rows, "figures": figures}


# ---------------------------------------------------------------- what to label next


def suggest(folder: Path, _: Letters) -> dict[str, Any]:
    """Accuracy after each of ten more labels: the suggested one, and a random one; 5-way 1-shot at the beginning, a
    pool of ten drawings a character."""
    run, alphabets = first_run(), Alphabets.read()
    found: dict[str, list[list[float]]] = {"suggested": [], "random": []}
    with kshot_server(folder, [str(run)]) as server, client_of(server, keys(folder, 1)[0]) as client:
        rng = random.Random(0)
        for t in range(TASKS):
            _, own = alphabets.draw(rng, 5, 20)
            support, pool, queries = flat(own, slice(0, 1)), flat(own, slice(1, 11)), flat(own, slice(11, 20))
            for kind, scores in found.items():
                scores.append(labelled_one_by_one(client, support, pool, queries, kind, random.Random(t)))
    curves = {kind: torch.tensor(scores, dtype=torch.float64) for kind, scores in found.items()}
    gains = [interval(gain) for gain in (curves["suggested"] - curves["random"]).T]
    last = gains[-1]
    # Over the ten labels together, and after the last one.
    over = interval((curves["suggested"] - curves["random"])[:, 1:].mean(-1))
    return {
        "accuracy": {kind: [float(x) for x in scores.mean(0)] for kind, scores in curves.items()},
        "gains": [points(gain) for gain in gains],
        "figures": [
            above_zero("suggested over random, mean of 10 labels", over),
            above_zero("suggested over random, after 10 labels", last),
        ],
    }


def labelled_one_by_one(
    client: Client,
    support: tuple[list[bytes], list[str]],
    pool: tuple[list[bytes], list[str]],
    queries: tuple[list[bytes], list[str]],
    kind: str,
    rng: random.Random,
) -> list[float]:
    """The accuracy at the beginning and after each label."""
    left = list(range(len(pool[0])))
    made = client.create_task(*support, unlabeled=pool[0])
    task, scores = made["id"], []
    for step in range(LABELS + 1):
        said = client.predict(task, queries[0])
        scores.append(sum(one["label"] == y for one, y in zip(said, queries[1], strict=True)) / len(said))
        if step == LABELS:
            break
        place = left[made["label_next"][0]] if kind == "suggested" else rng.choice(left)
        left.remove(place)
        made = client.add_examples(task, [pool[0][place]], [pool[1][place]], unlabeled=[pool[0][i] for i in left])
    client.delete(task)
    return scores


# ---------------------------------------------------------------- refinement


def refine(folder: Path, _: Letters) -> dict[str, Any]:
    """Tenants bring alphabets that the first training never held; the learner is refined on what they asked, with
    replay, and promoted; one that forgot everything is refused."""
    run, alphabets = first_run(), Alphabets.read()
    rng = random.Random(0)
    secrets = keys(folder, 20)
    with kshot_server(folder, [f"letters={run}"], retention="raw") as server:
        for secret, (_, own) in zip(secrets, sorted(alphabets.files.items()), strict=True):
            names = rng.sample(sorted(own), len(own))
            with client_of(server, secret) as client:
                for start in range(0, len(names) - 4, CLASSES):
                    part = {name: own[name][:EACH] for name in names[start : start + CLASSES]}
                    client.create_task(*flat(part, slice(None)))
        settings = folder / "server.json"
        asked = kshot("data", "from-server", "--settings", settings, "--out", folder / "asked")
        kshot(
            "train", "--init", run, "--data", folder / "asked", "--replay", 0.5, "--steps", 600,
            "--set", "training.meta_batch=1", "--set", "data.train={way: 30, shot: 2, query: 4}",
            "--out", folder / "next",
        )  # fmt: skip
        kshot(
            "train", "--init", run, "--data", folder / "asked", "--steps", 30, "--set", "training.lr=0.3",
            "--set", "training.schedule=constant", "--set", "training.val_every=null", "--out", folder / "worse",
        )  # fmt: skip
        database = f"sqlite:///{folder}/kshot.db"
        common = (
            "--over",
            run,
            "--data",
            folder / "asked",
            "--tasks",
            1000,
            "--name",
            "letters",
            "--database",
            database,
        )
        refused = kshot("promote", folder / "worse", *common, code=1)
        promoted = kshot("promote", folder / "next", *common)
        moved = until_moved(server, secrets)
    gain, change = (promoted[kind][what] for kind, what in (("new", "gain"), ("old", "change")))
    return {
        "asked": asked,
        "promoted": promoted,
        "refused": refused,
        "moved": moved,
        "figures": [
            figure(
                "refined: gain on the new tasks, points, its interval's low end",
                100 * (gain["mean"] - gain["half_width"]),
                0.0,
                True,
            ),
            figure("refined: loss on the old tasks, points", -100 * change["mean"], 0.5),
            figure("a worse candidate is refused", float(not refused["promoted"]), 1.0, True),
            figure("the tenants' tasks that the promoted model adapts now, share", moved, 1.0, True),
        ],
    }


def until_moved(server: Server, secrets: list[str]) -> float:
    """The share of tasks at their second version when that does not grow any more."""
    share, before = 0.0, -1.0
    while share > before or share == 0.0:
        before = share
        threading.Event().wait(10)
        tasks = [task for secret in secrets for task in client_of(server, secret).tasks()]
        share = sum(task["version"] == 2 for task in tasks) / len(tasks)
    return share


def above_zero(name: str, gain: Interval) -> dict[str, Any]:
    return figure(f"{name}, points ({points(gain)}), low end", 100 * gain.low, 0.0, at_least=True)


def points(gain: Interval) -> str:
    return f"{100 * gain.mean:+.2f}, {100 * gain.low:+.2f} to {100 * gain.high:+.2f}"
