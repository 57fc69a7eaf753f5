"""The adaptation server against its floor, measured in the same run.

    python benchmarks/serving.py                        # all of it: about ten minutes, two cores, nothing else running
    python benchmarks/serving.py predict create         # some of it

The floor of a request is the same HTTP stack with an empty handler, and the bare model. The server is `kshot serve` on
an embedded SQLite, with keys, its log and its checks; the load comes from a second process (`serving_load.py`), from
letters that the model was not trained on. Parts: `predict` (64 clients; one task, and 1,000 tasks of 1,000 tenants),
`create` (5-way 5-shot, ProtoNet and MAML), `overload` (latency at 70% of the saturation, shedding at three times it),
`heads` (stacked, one by one), `stored` (100,000 tasks). Prints a table and writes `benchmarks/results/serving.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import torch
from serving_load import Spec
from torch import Tensor

import kshot
from kshot import engine
from kshot.artifacts import load_learner
from kshot.episodes import Examples
from kshot.models import Conv4
from kshot.randomness import seeded
from kshot.serving.predicting import Question, predict_heads
from kshot.serving.served import ServedModel
from kshot.serving.states import State, decode, encode
from kshot.serving.store import access, tasks
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate
from kshot.serving.store.rows import new_id
from kshot.serving.vault import Vault

ROOT = Path(__file__).parent
MODEL = "characters"  # ProtoNet on a Conv-4 of 64 channels, 28x28
CLIENTS = 64
TENANTS = 1_000
STORED = 100_000
ROUNDS = 3
WAY, SHOT = 5, 5

EMPTY = """
import orjson, uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
app = FastAPI()
async def empty(http: Request) -> Response:
    orjson.loads(await http.body())
    return Response(b'{"predictions": []}', media_type="application/json")
app.post("/v1/tasks/{task}/predict")(empty)
app.post("/v1/tasks")(empty)
app.get("/healthz")(lambda: {})
uvicorn.run(app, port=0, http="httptools", access_log=False)
"""


# ---------------------------------------------------------------- data


@dataclass
class Letters:
    """5-way 5-shot tasks of letters that the model was not trained on: uint8 `[n, 28, 28]`, and queries."""

    tasks: list[tuple[Tensor, list[str], Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, count: int) -> Letters:
        source = kshot.tasks.load("glyphs", way=WAY, shot=SHOT, query=5)
        episodes = source.test.sample(count, seed=0)
        tasks = []
        for t in range(count):
            episode = episodes[t]
            support = (episode.support.x[:, 0] * 255).round().to(torch.uint8)  # type: ignore[index]
            query = (episode.query.x[:, 0] * 255).round().to(torch.uint8)  # type: ignore[index]
            tasks.append((support, [f"letter {y}" for y in episode.support.y.tolist()], query))
        return cls(tasks)

    def creation(self, t: int) -> bytes:
        """The body that makes a task."""
        support, labels, _ = self.tasks[t % len(self.tasks)]
        examples = [{"x": x.tolist(), "label": label} for x, label in zip(support, labels, strict=True)]
        return orjson.dumps({"examples": examples})

    def query(self, t: int, i: int = 0) -> bytes:
        """The body that asks about one image."""
        return orjson.dumps({"x": self.tasks[t % len(self.tasks)][2][i].tolist()})


def request(path: str, body: bytes, key: str = "") -> str:
    """A whole HTTP request."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body.decode('ascii')}"
    )


# ---------------------------------------------------------------- servers and their load


class Server:
    """A process that serves.

    Attributes:
        port: where.
        started: seconds from its start until it answered.
    """

    def __init__(self, command: list[str], folder: Path, ready: str) -> None:
        self.log = folder / f"server-{time.time_ns()}.log"
        began = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        self.port = self._port()
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as http:
            while http.get(ready).status_code != 200:
                time.sleep(0.01)
        self.started = time.perf_counter() - began

    def _port(self) -> int:
        while True:
            found = re.search(rb"http://127\.0\.0\.1:(\d+)", self.log.read_bytes())
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text())
            time.sleep(0.005)

    @property
    def megabytes(self) -> float:
        """Of resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@contextlib.contextmanager
def empty_server(folder: Path) -> Iterator[Server]:
    server = Server([sys.executable, "-c", EMPTY], folder, "/healthz")
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def kshot_server(folder: Path, models: list[str], **settings: Any) -> Iterator[Server]:
    path = folder / "server.json"  # YAML reads JSON
    rate = {"requests_per_second": 1_000_000}  # the server is asked what it can, not what a tenant may
    whole = {"models": models, "database": f"sqlite:///{folder}/kshot.db", "port": 0, "quotas": rate, **settings}
    path.write_text(json.dumps(whole))
    server = Server([sys.executable, "-m", "kshot", "serve", "--settings", str(path)], folder, "/readyz")
    try:
        yield server
    finally:
        server.close()


def keys(folder: Path, count: int) -> list[str]:
    """A key each of so many tenants."""
    database = Database(f"sqlite:///{folder}/kshot.db")
    migrate(database)
    pending = [database.write(lambda c, i=i: access.create_key(c, f"tenant {i}")[1]) for i in range(count)]  # type: ignore[misc]
    secrets = [one.result() for one in pending]
    database.close()
    return secrets


class Load:
    """A process that asks.

    Args:
        spec: for what.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        path = spec.save(folder / f"spec-{time.time_ns()}.json")
        self._process = subprocess.Popen([sys.executable, str(ROOT / "serving_load.py"), str(path)], stdout=-1)

    def result(self) -> dict[str, Any]:
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise SystemExit("the load ended with an error")
        found: dict[str, Any] = json.loads(out)
        return found


def ask(folder: Path, server: Server, requests: list[str], connections: int, seconds: float, **more: Any) -> Any:
    """What a load finds."""
    return Load(folder, Spec(server.port, requests, connections, seconds, **more)).result()


def create_all(server: Server, letters: Letters, secrets: list[str]) -> list[str]:
    """A task of each tenant."""
    ids = []
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=60) as http:
        for t, secret in enumerate(secrets):
            headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
            answer = http.post("/v1/tasks", content=letters.creation(t), headers=headers)
            assert answer.status_code == 201, answer.text
            ids.append(answer.json()["id"])
    return ids


def seconds_of(work: Callable[[], Any], at_least: float = 2.0) -> float:
    """The median of what one call takes."""
    work()
    taken: list[float] = []
    while sum(taken) < at_least or len(taken) < 5:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


# ---------------------------------------------------------------- the parts


def predict(folder: Path, letters: Letters) -> dict[str, Any]:
    """Predictions a second of 64 clients: the floor, one task, 1,000 tasks of 1,000 tenants."""
    secrets = keys(folder, TENANTS)
    learner, _ = load_learner(MODEL)
    images = torch.cat([task[2] for task in letters.tasks])[:CLIENTS].unsqueeze(1).float() / 255
    with torch.no_grad():
        bare = seconds_of(lambda: engine.compute_features(learner.eval(), images)) / CLIENTS
        single = seconds_of(lambda: engine.compute_features(learner.eval(), images[:1]))
    rates: dict[str, list[float]] = {"empty": [], "one": [], "many": []}
    with empty_server(folder) as empty, kshot_server(folder, [MODEL]) as server:
        ids = create_all(server, letters, secrets)
        many = [request(f"/v1/tasks/{id_}/predict", letters.query(t), secrets[t]) for t, id_ in enumerate(ids)]
        plans = {
            "empty": (empty, many),
            "one": (server, many[:1]),
            "many": (server, many),
        }
        latency = {}
        for _ in range(ROUNDS):
            for name, (who, requests) in plans.items():
                found = ask(folder, who, requests, CLIENTS, 6.0)
                assert set(found["statuses"]) <= {"200"}, found
                rates[name].append(found["rate"])
                latency[name] = found["latency"]
    median = {name: statistics.median(values) for name, values in rates.items()}
    floors = {"of one image at a time": 1 / (1 / median["empty"] + single), "of 64": 1 / (1 / median["empty"] + bare)}
    return {
        "requests_per_second": median,
        "rounds": rates,
        "latency_ms": latency,
        "bare_model_ms": {"of a batch of 64": 1000 * bare, "alone": 1000 * single},
        "floors": floors,
        "figures": [
            *(
                figure(
                    f"1,000 tasks of 1,000 tenants over the floor (bare model {of})", median["many"] / floor, 0.6, True
                )
                for of, floor in floors.items()
            ),
            figure("1,000 tasks over one task", median["many"] / median["one"], 0.9, at_least=True),
        ],
    }


def create(folder: Path, letters: Letters) -> dict[str, Any]:
    """Creations of 5-way 5-shot tasks: p50 of 1 and 8 clients over the floor's."""
    with seeded(0):
        maml = kshot.MAML(Conv4(in_channels=1, channels=64, image_size=28, norm="batch"), way=WAY, inner_steps=5)
    maml.transform = load_learner(MODEL)[0].transform
    maml.save_pretrained(folder / "maml")
    models = {"protonet": MODEL, "maml": str(folder / "maml")}
    support = letters.tasks[0][0].unsqueeze(1).float() / 255
    y = torch.arange(WAY).repeat_interleave(SHOT)
    bare = {}
    for name, path in models.items():
        learner, _ = load_learner(path)
        learner.eval().requires_grad_(requires_grad=False)
        for clients in (1, 8):

            def adapt(learner: Any = learner, clients: int = clients) -> None:
                with torch.no_grad():
                    z = engine.compute_features(learner, support.repeat(clients, 1, 1, 1))
                    engine.adapt_tasks(
                        learner, [Examples.of(z[25 * i : 25 * i + 25], y, way=WAY) for i in range(clients)]
                    )

            bare[name, clients] = seconds_of(adapt)
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
                floors, found = [], []
                for _ in range(ROUNDS):
                    floors.append(ask(folder, empty, bodies[name], clients, 3.0)["latency"]["p50"])
                    result = ask(folder, server, bodies[name], clients, 5.0 if name == "protonet" else 12.0)
                    assert set(result["statuses"]) <= {"201"}, result
                    found.append(result["latency"]["p50"])
                floor = statistics.median(floors) + 1000 * bare[name, clients]
                p50 = statistics.median(found)
                rows.append(
                    {
                        "model": name,
                        "clients": clients,
                        "p50_ms": p50,
                        "empty_ms": statistics.median(floors),
                        "bare_ms": 1000 * bare[name, clients],
                        "floor_ms": floor,
                    }
                )
                figures.append(figure(f"create, {name}, {clients} client(s), p50 over its floor", p50 / floor, 2.0))
    return {"rows": rows, "figures": figures}


def overload(folder: Path, letters: Letters) -> dict[str, Any]:
    """Latency at 70% of what 64 clients get; what is shed, and memory, at three times it."""
    secrets = keys(folder, TENANTS)
    with kshot_server(folder, [MODEL]) as server:
        ids = create_all(server, letters, secrets)
        many = [request(f"/v1/tasks/{id_}/predict", letters.query(t), secrets[t]) for t, id_ in enumerate(ids)]
        saturation = statistics.median(ask(folder, server, many, CLIENTS, 6.0)["rate"] for _ in range(ROUNDS))
        calm = [ask(folder, server, many, 256, 8.0, rate=0.7 * saturation, warm=1.0) for _ in range(ROUNDS)]
        before = server.megabytes
        storm = Load(folder, Spec(server.port, many, 4_000, 20.0, 3 * saturation, warm=2.0))
        memory = []
        while storm._process.poll() is None:
            memory.append(server.megabytes)
            time.sleep(0.5)
        shed = storm.result()
    ratios = [one["latency"]["p99"] / one["latency"]["p50"] for one in calm]
    late = memory[len(memory) // 2 :]
    return {
        "saturation": saturation,
        "at_70_percent": calm,
        "at_3_times": shed,
        "megabytes": {"before": before, "during": memory},
        "figures": [
            figure("p99 over p50 at 70% of the saturation", statistics.median(ratios), 10.0),
            figure("requests refused (503) at 3x, share", _refused(shed), 0.0, at_least=True),
            figure("answers at 3x over those at saturation", shed["rate"] / saturation, 0.5, at_least=True),
            figure("memory in the second half at 3x over the first", max(late) / max(memory[: len(late)]), 1.05),
        ],
    }


def _refused(found: dict[str, Any]) -> float:
    statuses = found["statuses"]
    return float(statuses.get("503", 0) / max(1, sum(statuses.values())))


def heads(folder: Path, letters: Letters) -> dict[str, Any]:
    """What comes after the features, of 64 predictions of 64 tasks: stacked and one by one."""
    rows, figures = [], []
    with seeded(0):
        makers = {
            "protonet": kshot.ProtoNet,
            "ridge": kshot.RidgeNet,
            "anil": lambda backbone: kshot.ANIL(backbone, way=WAY, inner_steps=5),
        }
        for name, make in makers.items():
            learner = make(Conv4(in_channels=1, channels=64, image_size=28, norm="batch")).eval()
            learner.requires_grad_(requires_grad=False)
            x = torch.cat([task[0] for task in letters.tasks[:CLIENTS]]).unsqueeze(1).float() / 255
            with torch.no_grad():
                z = engine.compute_features(learner, x).unflatten(0, (CLIENTS, -1))  # type: ignore[union-attr]
            y = torch.arange(WAY).repeat_interleave(SHOT)
            classes, labels, numbers = torch.ones(WAY, dtype=torch.bool), list("abcde"), list(range(25))
            states = engine.adapt_tasks(learner, [Examples.of(one, y, way=WAY) for one in z])
            model = ServedModel(name, "-", name, learner, learner)
            questions = [
                Question(
                    State(str(t), 1, name, state, classes, labels, numbers, y, z[t], {"temperature": 1.0}), model, x[:1]
                )
                for t, state in enumerate(states)
            ]
            queries = z[:, :1]

            def together(model: Any = model, questions: Any = questions, queries: Tensor = queries) -> Any:
                return predict_heads(model, questions, queries, queries)

            def apart(model: Any = model, questions: Any = questions, queries: Tensor = queries) -> Any:
                return [predict_heads(model, [q], z, z) for q, z in zip(questions, queries.split(1), strict=True)]

            stacked, apart_ = seconds_of(together), seconds_of(apart)
            rows.append({"learner": name, "stacked_ms": 1000 * stacked, "one_by_one_ms": 1000 * apart_})
            figures.append(figure(f"heads of 64 tasks, {name}: one by one over stacked", apart_ / stacked, 10.0, True))
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


def figure(name: str, value: float, target: float, at_least: bool = False) -> dict[str, Any]:
    """A number beside what it shall reach."""
    reached = value >= target if at_least else value <= target
    return {"figure": name, "value": round(value, 4), "target": target, "at_least": at_least, "reached": reached}


PARTS: dict[str, Callable[[Path, Letters], dict[str, Any]]] = {
    "predict": predict,
    "create": create,
    "overload": overload,
    "heads": heads,
    "stored": stored,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; by default all")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"expected parts of {', '.join(PARTS)}, got {unknown[0]}")
    letters = Letters.of(200)
    path = ROOT / "results" / "serving.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="kshot-serving-") as folder:
            found = PARTS[part](Path(folder), letters)
        found["hardware"] = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        found["commit"] = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        kept[part] = found
        for one in found["figures"]:
            sign = ">=" if one["at_least"] else "<="
            word = "reached" if one["reached"] else "SHORT"
            print(f"{one['figure']:64} {one['value']:>9.3f}  {sign} {one['target']:<6} {word}", flush=True)
        path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"kept in {path.relative_to(ROOT.parent)}")


if __name__ == "__main__":
    main()
