"""A server that is killed while it writes: what it had said is there, and nothing is there by half.

KSHOT_KILLS=50 makes as many kills of each database as the documentation speaks of; the suite makes do with a few.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_serving import pid_of, serving, task

KILLS = int(os.environ.get("KSHOT_KILLS", "2"))


class Writers:
    """Clients that make tasks, add examples and forget some until nobody answers.

    Attributes:
        said: of each task the last version that was acknowledged, and its number of examples.
        wrote: whether something was acknowledged.
    """

    def __init__(self, url: Any, count: int = 4) -> None:
        self.url, self.said, self.wrote = url, dict[str, tuple[int, int]](), threading.Event()
        self.threads = [threading.Thread(target=self.write, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def write(self, seed: int) -> None:
        body, chance = task(), random.Random(seed)
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as http:
            try:
                while True:
                    self.note(http.post("/v1/tasks", json=body))
                    id_ = chance.choice(list(self.said))
                    more = {"examples": body["examples"][: chance.randint(1, 3)]}
                    self.note(http.post(f"/v1/tasks/{id_}/examples", json=more))
                    if chance.random() < 0.3:
                        self.note(http.delete(f"/v1/tasks/{id_}/examples/{self.said[id_][1]}"))
            except httpx.HTTPError:
                return

    def note(self, answer: httpx.Response) -> None:
        if answer.status_code in (200, 201):
            found = answer.json()
            known = self.said.get(found["id"], (0, 0))
            self.said[found["id"]] = max(known, (found["version"], found["examples"]))
            self.wrote.set()


def whole(http: httpx.Client, said: dict[str, tuple[int, int]], last: Iterable[str] | None = None) -> int:
    """Checks the tasks that are there, and that all that were acknowledged are; how many there are.

    Args:
        last: those that were written last: looked at closely, as are the newest and some others. None: all are.
    """
    there: dict[str, Any] = {}
    after = None
    while True:
        page = http.get("/v1/tasks", params={"limit": 100, **({"after": after} if after else {})}).json()
        there |= {one["id"]: one for one in page["tasks"]}
        after = page["next"]
        if after is None:
            break
    assert set(said) <= set(there), "a task that was acknowledged is lost"
    query = {"x": task()["examples"][0]["x"]}
    newest = list(there)
    some = newest if last is None else {*last, *newest[:60], *random.Random(0).sample(newest, min(40, len(newest)))}
    for id_ in some:
        found = http.get(f"/v1/tasks/{id_}").json()
        examples = http.get(f"/v1/tasks/{id_}/examples").json()["examples"]
        assert len(examples) == found["examples"], "by half"
        answer = http.post(f"/v1/tasks/{id_}/predict", json=query)
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] == found["version"], "the state is another version's"
        version, number = said.get(id_, (0, 0))
        assert found["version"] >= version, "a version that was acknowledged is lost"
        if found["version"] == version:
            assert found["examples"] == number, "an example that was acknowledged is lost"
    return len(there)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{Path.cwd()}/kshot.db"
    from postgres import new_database

    return new_database(request.getfixturevalue("postgres"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_server_that_is_killed_while_it_writes(database: str) -> None:
    chance, said, made, last = random.Random(0), dict[str, tuple[int, int]](), 0, set[str]()
    words = ("characters", "--no-auth", "--database", database)
    for _ in range(KILLS):
        with serving(*words, kill=True) as (http, _, lines):
            made = whole(http, said, last)
            writers = Writers(http.base_url)
            # At any moment: not before something was written, and not after a time that is known.
            assert writers.wrote.wait(60), "nothing was acknowledged within a minute"
            threading.Event().wait(chance.uniform(0.0, 0.9))
            os.kill(pid_of(lines), signal.SIGKILL)
            for thread in writers.threads:
                thread.join()
            said |= writers.said
            last = set(writers.said)
    with serving(*words) as (http, _, _):
        assert whole(http, said) >= len(said) > 0
        assert made or KILLS < 2
