"""Episodes from a folder of images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from kshot.bench.peers.image_files import loader
from kshot.bench.workload import Contender, Goal, Missing, Workload
from kshot.tasks import load

WAY, SHOT, QUERY = 5, 1, 15
CLASSES, IMAGES, SIDE, SIZE = 60, 20, 105, 28
TASKS = 8


class Sampling(Workload):
    """5-way 1-shot tasks with 15 queries a class, of 60 classes of 20 pictures of 105x105 pixels, made 28x28.

    kshot decodes the folder once, before anything is timed, and samples from memory; a `DataLoader` decodes each image
    each time, one after another or in two processes. There is no product in it, so nothing is counted and held against
    the machine's ceilings.
    """

    name = "sampling"
    title = "Episodes of a folder of PNG files, 5-way 1-shot, 15 queries, into tensors"
    unit = "episodes"
    amount = TASKS
    reference = "DataLoader"
    goals = (Goal(("kshot",), ("DataLoader", "DataLoader, 2 workers"), 100),)

    def contenders(self) -> Iterator[Contender | Missing]:
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name) / "images"
        write_images(root)
        for workers in (0, 2):
            name = "DataLoader" if workers == 0 else f"DataLoader, {workers} workers"
            yield Contender(name, *_drawing(root, workers))
        split = load(root, way=WAY, shot=SHOT, query=QUERY, size=SIZE, channels=1).train
        steps = iter(range(10**9))
        many = 256

        def sample() -> None:
            split.sample(many, seed=0, step=next(steps))

        yield Contender("kshot", sample, ours=True, amount=many)


def _drawing(root: Path, workers: int) -> tuple[Callable[[], object]]:
    """Draws some tasks from a loader that goes on and on."""
    tasks = iter(loader(root, SIZE, WAY, SHOT, QUERY, 10**6, workers))

    def draw() -> None:
        for _ in range(TASKS):
            next(tasks)

    return (draw,)


def write_images(root: Path) -> None:
    """A folder of classes of pictures as large as Omniglot's."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = root / f"class-{label:03d}"
        folder.mkdir(parents=True)
        shape = random.random((7, 7)) < 0.4
        for i in range(IMAGES):
            flipped = shape ^ (random.random(shape.shape) < 0.05)
            pixels = np.kron(flipped, np.full((SIDE // 7, SIDE // 7), 255)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:02d}.png")
