"""The data path of few-shot libraries: a `Dataset` over image files, a sampler of tasks, and a `DataLoader`."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Item = tuple[Tensor, int]


class ImageFiles(Dataset[Item]):
    """Every image of a folder of classes, decoded when it is asked for."""

    def __init__(self, folder: Path, size: int) -> None:
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        self.files = [(file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir())]
        self.labels = [label for _, label in self.files]
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        file, label = self.files[index]
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L").resize((self.size, self.size)), dtype=np.float32)
        return torch.from_numpy(pixels / 255)[None], label


class TaskSampler(Sampler[list[int]]):
    """Indices of one task after another: some classes, some images of each (what easyfsl's `TaskSampler` does)."""

    def __init__(self, labels: list[int], way: int, shot: int, query: int, tasks: int) -> None:
        self.items: dict[int, list[int]] = {}
        for index, label in enumerate(labels):
            self.items.setdefault(label, []).append(index)
        self.way, self.shot, self.query, self.tasks = way, shot, query, tasks

    def __len__(self) -> int:
        return self.tasks

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.tasks):
            classes = random.sample(sorted(self.items), self.way)
            yield [i for label in classes for i in random.sample(self.items[label], self.shot + self.query)]

    def collate(self, items: list[Item]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int]]:
        """Support and query images and labels of a task, and its classes."""
        classes = list({label for _, label in items})
        images = torch.stack([image for image, _ in items]).unflatten(0, (self.way, self.shot + self.query))
        labels = torch.tensor([classes.index(label) for _, label in items]).view(self.way, self.shot + self.query)
        support, query = images[:, : self.shot].flatten(0, 1), images[:, self.shot :].flatten(0, 1)
        return support, labels[:, : self.shot].flatten(), query, labels[:, self.shot :].flatten(), classes


def loader(folder: Path, size: int, way: int, shot: int, query: int, tasks: int, workers: int) -> DataLoader[Item]:
    """Batches that are tasks."""
    files = ImageFiles(folder, size)
    sampler = TaskSampler(files.labels, way, shot, query, tasks)
    # A fork of a process where JAX's threads run may never come to its first image.
    context = "spawn" if workers and "jax" in sys.modules else None
    return DataLoader(
        files,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=sampler.collate,
        multiprocessing_context=context,
    )
