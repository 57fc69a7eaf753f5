"""Predictions: how many, how late, what comes of too many, and what their heads cost."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch
from harness import CLIENTS, MODEL, ROUNDS, Load, ask, create_all, empty_server, figure, keys, kshot_server, seconds_of
from letters import SHOT, WAY, Letters, request
from load import Spec
from torch import Tensor

import kshot
from kshot import engine
from kshot.artifacts import load_learner
from kshot.episodes import Examples
from kshot.metrics import interval
from kshot.models import Conv4
from kshot.randomness import seeded
from kshot.serving.predicting import Question, predict_heads
from kshot.serving.served import ServedModel
from kshot.serving.states import State

TENANTS = 1_000
ASKED = 4_000


def predict(folder: Path, letters: Letters) -> dict[str, Any]:
    """Predictions a second of 64 clients: the floor, one task, 1,000 tasks of 1,000 tenants."""
    secrets = keys(folder, TENANTS)
    learner, _ = load_learner(MODEL)
    images = torch.cat([task[2] for task in letters.tasks])[:CLIENTS].unsqueeze(1).float() / 255
    learner.eval().requires_grad_(requires_grad=False)
    bare: dict[str, list[float]] = {"of one image at a time": [], "of 64": []}
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
        for _ in range(5):
            for own, n in zip(bare.values(), (1, CLIENTS), strict=True):
                own.append(seconds_of(partial(engine.compute_features, learner, images[:n]), 0.5) / n)
            for name, (who, requests) in plans.items():
                found = ask(folder, who, requests, CLIENTS, 4.0)
                assert set(found["statuses"]) <= {"200"}, found
                rates[name].append(found["rate"])
                latency[name] = found["latency"]
    median = {name: statistics.median(values) for name, values in rates.items()}
    # Round by round: what the machine does meanwhile is in all of them.
    over = {
        of: statistics.median(
            m / (1 / (1 / e + cost)) for m, e, cost in zip(rates["many"], rates["empty"], costs, strict=True)
        )
        for of, costs in bare.items()
    }
    alike = statistics.median(m / o for m, o in zip(rates["many"], rates["one"], strict=True))
    return {
        "requests_per_second": median,
        "rounds": rates,
        "latency_ms": latency,
        "bare_model_ms": {of: 1000 * statistics.median(costs) for of, costs in bare.items()},
        "figures": [
            *(
                figure(f"1,000 tasks of 1,000 tenants over the floor (bare model {of})", share, 0.6, True)
                for of, share in over.items()
            ),
            figure("1,000 tasks over one task", alike, 0.9, at_least=True),
        ],
    }


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
            figure("requests refused (503) at 3x, share", _refused(shed), 0.01, at_least=True),
            figure("answers at 3x over those at saturation", shed["rate"] / saturation, 0.5, at_least=True),
            figure("memory in the second half at 3x over the first", max(late) / max(memory[: len(late)]), 1.05),
        ],
    }


def _refused(found: dict[str, Any]) -> float:
    statuses = found["statuses"]
    return float(statuses.get("503", 0) / max(1, sum(statuses.values())))


def hidden(folder: Path, letters: Letters) -> dict[str, Any]:
    """What a tenant learns from the time that a 404 takes: of another tenant's task, and of one that there is not."""
    mine, other = keys(folder, 2)
    taken: dict[str, list[float]] = {"another tenant's": [], "unknown": []}
    with kshot_server(folder, [MODEL]) as server:
        ids = {"another tenant's": create_all(server, letters, [other])[0], "unknown": f"task_{'0' * 24}"}
        headers = {"authorization": f"Bearer {mine}", "content-type": "application/json"}
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, headers=headers) as http:
            for i in range(ASKED):
                for kind, id_ in list(ids.items())[:: 1 if i % 2 else -1]:
                    began = time.perf_counter()
                    answer = http.post(f"/v1/tasks/{id_}/predict", content=letters.query(0))
                    taken[kind].append(time.perf_counter() - began)
                    assert answer.status_code == 404
    median = {kind: statistics.median(own) for kind, own in taken.items()}
    # Medians of blocks, one after the other: what the machine does meanwhile is in both.
    blocks = [
        statistics.median(taken["another tenant's"][i : i + 100]) / statistics.median(taken["unknown"][i : i + 100]) - 1
        for i in range(0, ASKED, 100)
    ]
    difference = interval(torch.tensor(blocks, dtype=torch.float64))
    name = f"404 of another tenant's task over that of none, less one ({difference:+.2%} of it)"
    return {
        "median_ms": {kind: 1000 * seconds for kind, seconds in median.items()},
        "figures": [figure(name, abs(difference.mean), 0.05)],
    }


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
