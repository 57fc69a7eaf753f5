"""Tasks that are made, and 100,000 that are there already."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import CLIENTS, MODEL, ROUNDS, ask, create_all, empty_server, figure, keys, kshot_server, seconds_of
from letters import SHOT, WAY, Letters, request

import kshot
from kshot import engine
from kshot.artifacts import load_learner
from kshot.episodes import Examples
from kshot.models import Conv4
from kshot.randomness import seeded
from kshot.serving.states import decode, encode
from kshot.serving.store import tasks
from kshot.serving.store.database import Database
from kshot.serving.store.rows import new_id
from kshot.serving.vault import Vault

STORED = 100_000

CHUNKS = {"protonet": (1, 128), "maml": (128,)}
"""Images that the bare model is given at once: the floor that was asked for is that of an image at a time, and what the
machine does best is less."""


def create(folder: Path, letters: Letters) -> dict[str, Any]:
    """Creations of 5-way 5-shot tasks: p50 of 1 and 8 clients over the floor's."""
    with seeded(0):
        maml = kshot.MAML(Conv4(in_channels=1, channels=64, image_size=28, norm="batch"), way=WAY, inner_steps=5)
    maml.transform = load_learner(MODEL)[0].transform
    maml.save_pretrained(folder / "maml")
    models = {"protonet": MODEL, "maml": str(folder / "maml")}
    support = letters.tasks[0][0].unsqueeze(1).float() / 255
    y = torch.arange(WAY).repeat_interleave(SHOT)
    bare: dict[tuple[str, int, int], Callable[[], Any]] = {}
    for name, path in models.items():
        learner, _ = load_learner(path)
        learner.eval().requires_grad_(requires_grad=False)
        for clients, chunk in itertools.product((1, 8), CHUNKS[name]):

            def adapt(learner: Any = learner, clients: int = clients, chunk: int = chunk) -> None:
                with torch.no_grad():
                    z = engine.compute_features(learner, support.repeat(clients, 1, 1, 1), chunk)
                    engine.adapt_tasks(
                        learner, [Examples.of(z[25 * i : 25 * i + 25], y, way=WAY) for i in range(clients)]
                    )

            bare[name, clients, chunk] = adapt
    # Its tasks are checked when nobody asks, which is while the bare model would be measured.
    before = {of: 1000 * seconds_of(work) for of, work in bare.items() if of[0] == "maml"}
    rows, figures = [], []
    secrets = keys(folder, 64)
    with (
        empty_server(folder) as empty,
        kshot_server(folder, [f"{name}={path}" for name, path in models.items()]) as server,
    ):
        bodies = {
            name: [
                request("/v1/tasks", letters.creation(t)[:-1] + b',"model":"%s"}' % name.encode(), secrets[t % 64])
                for t in range(256)
            ]
            for name in models
        }
        for name in models:
            for clients in (1, 8):
                # Round by round: what the machine does meanwhile is in all of them.
                empties, found = [], []
                bares: dict[int, list[float]] = {chunk: [] for chunk in CHUNKS[name]}
                for _ in range(ROUNDS if name == "maml" else 7):
                    empties.append(ask(folder, empty, bodies[name], clients, 2.0)["latency"]["p50"])
                    for chunk, taken in bares.items():
                        of = (name, clients, chunk)
                        taken.append(before.get(of) or 1000 * seconds_of(bare[of], 1.0))
                    result = ask(folder, server, bodies[name], clients, 3.0 if name == "protonet" else 12.0)
                    assert set(result["statuses"]) <= {"201"}, result
                    found.append(result["latency"]["p50"])
                rows.append({"model": name, "clients": clients, "p50_ms": found, "empty_ms": empties, "bare_ms": bares})
                for chunk, taken in bares.items():
                    ratios = [p50 / (e + b) for p50, e, b in zip(found, empties, taken, strict=True)]
                    how = "" if name == "maml" else f" (bare model of {'an image' if chunk == 1 else chunk} at a time)"
                    what = f"create, {name}, {clients} client{'s' * (clients > 1)}, p50 over its floor{how}"
                    figures.append(figure(what, statistics.median(ratios), 2.0))
    return {"rows": rows, "figures": figures}


def stored(folder: Path, letters: Letters) -> dict[str, Any]:
    """100,000 stored tasks: start-up, memory, and the first prediction of a task that is not in memory."""
    [secret] = keys(folder, 1)
    with kshot_server(folder, [MODEL]) as server:  # makes the key file and the calibration
        [first] = create_all(server, letters, [secret])
    began = time.perf_counter()
    ids = copies(folder, first, STORED)
    filled = time.perf_counter() - began
    size = sum(path.stat().st_size for path in folder.glob("kshot.db*")) / 1e6
    read = seconds_of_reads(folder, ids[-2_000:])
    body = [letters.query(t) for t in range(50)]
    with kshot_server(folder, [MODEL]) as server:
        started, before = server.started, server.megabytes
        asked = [request(f"/v1/tasks/{id_}/predict", body[t % 50], secret) for t, id_ in enumerate(ids)]
        ask(folder, server, asked[:1], 1, 2.0)
        warm = ask(folder, server, asked[:1], 1, 3.0)["latency"]["p50"]
        cold = ask(folder, server, asked[:20_000], 1, 6.0)["latency"]["p50"]
        ask(folder, server, asked[20_000:], CLIENTS, 20.0)
        after = server.megabytes
    return {
        "tasks": STORED,
        "fill_seconds": filled,
        "database_megabytes": size,
        "start_seconds": started,
        "megabytes": {"started": before, "after": after},
        "latency_ms": {"warm": warm, "cold": cold, "database_read": 1000 * read},
        "figures": [
            figure("start-up with 100,000 tasks, seconds", started, 5.0),
            figure("cold first prediction over 2 warm ones and a read", cold / (2 * warm + 1000 * read), 1.0),
            figure("memory after 20 s of cold tasks less the cache, over before", (after - 256) / before, 1.2),
        ],
    }


def copies(folder: Path, task: str, count: int) -> list[str]:
    """So many tasks like one that is stored."""
    database, vault = Database(f"sqlite:///{folder}/kshot.db"), Vault.of_file(folder / "kshot.key")
    with database.reading() as connection:
        row = tasks.find(connection, [task])[task]
        version = tasks.load_version(connection, task, 1)
        examples = tasks.load_examples(connection, task)
        state = decode(vault.open(tasks.load_states(connection, [task])[task][2], f"state {task}"))
    assert version is not None
    plain = [vault.open(one.sealed, f"example {task}/{one.number}") for one in examples]
    ids, pending = [], []
    for _ in range(count):
        id_ = new_id("task")
        own = [
            replace(one, sealed=vault.seal(content, f"example {id_}/{one.number}"))
            for one, content in zip(examples, plain, strict=True)
        ]
        sealed = vault.seal(encode(replace(state, task=id_)), f"state {id_}")
        new = replace(row, id=id_)
        change = partial(tasks.create, task=new, version=version, added=own, state=sealed, quotas={})
        pending.append(database.write(change))
        ids.append(id_)
        if len(pending) > 2_000:
            for one in pending:
                one.result()
            pending.clear()
    for one in pending:
        one.result()
    database.close()
    return ids


def seconds_of_reads(folder: Path, ids: list[str]) -> float:
    """The median of reading the stored state of one task."""
    database, taken = Database(f"sqlite:///{folder}/kshot.db"), []
    for id_ in ids:
        began = time.perf_counter()
        with database.reading() as connection:
            tasks.load_states(connection, [id_])
        taken.append(time.perf_counter() - began)
    database.close()
    return statistics.median(taken)
