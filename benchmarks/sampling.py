"""How many episodes a second: `python benchmarks/sampling.py`.

Omniglot (Vinyals split, from $KSHOT_DATA or --data-dir), 5-way 1-shot 15-query, into ready float tensors: kshot's
vectorised sampler beside a loop that picks, turns and normalises one image at a time. And sinusoid batches, as many as
MAML's experiment needs a second. Each number is the median of several runs, with the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kshot import tasks
from kshot.tasks import TaskSplit


def image_by_image(split: TaskSplit, episodes: int, seed: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The same episodes as a straightforward program makes them: support x and y, query x and y of each."""
    pool, transform = split.pool, split.source.transform
    assert pool is not None
    assert transform is not None
    rng = random.Random(seed)
    made = []
    for _ in range(episodes):
        classes: list[int] = []
        while len(classes) < split.way:
            c = rng.randrange(len(pool))
            if all(pool.kin[c] != pool.kin[other] for other in classes):
                classes.append(c)
        sides: tuple[list[tuple[Tensor, int]], list[tuple[Tensor, int]]] = ([], [])
        for y, c in enumerate(classes):
            start, turn = int(pool.start[c]), int(pool.turns[c])
            for i, k in enumerate(rng.sample(range(int(pool.count[c])), split.shot + split.query)):
                image = transform.normalise(torch.rot90(pool.x[start + k], turn, (-2, -1)))
                sides[i >= split.shot].append((image, y))
        rng.shuffle(sides[0])
        stacked = [(torch.stack([x for x, _ in side]), torch.tensor([y for _, y in side])) for side in sides]
        made.append((*stacked[0], *stacked[1]))
    return made


def rate(count: int, run: Callable[[int], object], runs: int) -> tuple[float, float, float]:
    """(median, slowest, fastest) of `count` per second over `runs` runs, after one that does not count."""
    run(0)
    rates = []
    for i in range(runs):
        begin = time.perf_counter()
        run(i + 1)
        rates.append(count / (time.perf_counter() - begin))
    return statistics.median(rates), min(rates), max(rates)


def consume(split: TaskSplit, meta_batch: int, steps: int, seed: int) -> None:
    for _ in split.batches(meta_batch, steps=steps, seed=seed):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="holds omniglot/; by default $KSHOT_DATA")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=1600, help="sampled in a run")
    parser.add_argument("--meta-batch", type=int, default=16)
    arguments = parser.parse_args()
    runs, meta_batch = arguments.runs, arguments.meta_batch
    steps = max(1, arguments.episodes // meta_batch)

    omniglot = tasks.load("omniglot", data_dir=arguments.data_dir, way=5, shot=1, query=15)
    wide = omniglot.train.replace(way=60, query=5)
    sinusoids = tasks.load("sinusoids", shot=10, query=10)
    few = max(1, arguments.episodes // 40)
    rows = [
        (
            "Omniglot 5-way 1-shot 15-query, kshot",
            "episodes/s",
            rate(steps * meta_batch, lambda i: consume(omniglot.train, meta_batch, steps, i), runs),
        ),
        (
            "Omniglot 5-way 1-shot 15-query, image by image",
            "episodes/s",
            rate(few, lambda i: image_by_image(omniglot.train, few, i), runs),
        ),
        (
            "Omniglot 60-way 1-shot 5-query, kshot",
            "episodes/s",
            rate(few, lambda i: consume(wide, 1, few, i), runs),
        ),
        (
            "Sinusoids, 25 tasks of 10 + 10 points, kshot",
            "batches/s",
            rate(2048, lambda i: consume(sinusoids.train, 25, 2048, i), runs),
        ),
    ]
    print(f"{torch.get_num_threads()} threads, meta-batch {meta_batch}, median of {runs} runs (slowest to fastest)")
    for name, unit, (median, slowest, fastest) in rows:
        print(f"  {name:<48} {median:>8,.0f} {unit:<10} ({slowest:,.0f} to {fastest:,.0f})")
    print(f"  kshot over image by image: {rows[0][2][0] / rows[1][2][0]:.0f} times")


if __name__ == "__main__":
    main()
