"""The tasks that the server is asked about, and the requests that do it."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
import torch
from torch import Tensor

import kshot

WAY, SHOT = 5, 5


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
