"""From rows of a pool to network inputs: gathered, turned and normalised for a whole meta-batch at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot.datasets.augment import Augmentation
from kshot.datasets.pool import Pool
from kshot.datasets.transform import ImageTransform, Transform
from kshot.tasks.transfer import sent

_SERIAL = 32_768
"""The most elements that torch works on without starting threads (its grain size); they fit into a cache, too."""


Change = Callable[[Tensor, NDArray[np.int64]], Tensor]
"""Stored examples `[m, *shape]`, and which of the `n` asked for they are, to as many of the same shape and type."""


def views(augment: Augmentation, key: NDArray[np.uint64]) -> Change:
    """The change that shows each of the examples asked for in the view of its key `[n]`."""
    return lambda stored, which: augment(stored, key[which])


class Gatherer:
    """Examples of a pool as a network sees them.

    The pool is gathered and turned as the bytes that it is. numpy does that: its `take` copies a row at a time, and its
    transposed copies took half the time of torch's. Normalising is left to the transform, whose one vectorised pass
    takes a twentieth of the time of looking 256 values up in a table. All of it runs on one thread: sampling needs no
    more, and on busy cores torch's threads wait for each other (a seventh of the episodes a second, measured).
    """

    def __init__(self, pool: Pool, transform: Transform) -> None:
        self.transform = transform
        self._x = pool.x.numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._x.shape[1:]

    def __call__(
        self, identity: NDArray[np.int64], device: torch.device | str | None = None, change: Change | None = None
    ) -> Tensor:
        """Inputs of examples, each a row and a turn.

        Args:
            identity: int64 `[n]`: row * 4 + quarter turns counter-clockwise; -1 for padding.
            device: where the inputs are to be; the CPU by default.
            change: applied to the stored examples before they are normalised, on the CPU whatever the device.

        Returns:
            float32 `[n, *shape]`, zero where padded.
        """
        real = np.flatnonzero(identity >= 0)
        stored = self._stored(identity[real])
        shape = (len(identity), *self.shape)
        chunk = max(1, _SERIAL // max(1, int(np.prod(self.shape))))
        if change is not None:
            parts = [slice(first, first + chunk) for first in range(0, len(real), chunk)]
            stored = torch.cat([stored[:0], *(change(stored[part], real[part]) for part in parts)])
        if device is not None and torch.device(device).type != "cpu":
            inputs = torch.zeros(shape, device=device)
            return inputs.index_copy_(
                0, sent(torch.from_numpy(real), device), self.transform.normalise(sent(stored, device))
            )
        if len(real) == len(identity) and isinstance(self.transform, ImageTransform):
            return self._normalised(stored, chunk)
        filled = np.zeros(shape, np.float32)  # the system's zeros: padding costs nothing until it is read
        for first in range(0, len(real), chunk):
            part = slice(first, first + chunk)
            filled[real[part]] = self.transform.normalise(stored[part]).numpy()
        return torch.from_numpy(filled)

    def _normalised(self, stored: Tensor, chunk: int) -> Tensor:
        """All of the examples, written where they are to be."""
        assert isinstance(self.transform, ImageTransform)
        inputs = torch.empty(stored.shape, dtype=torch.float32)
        for some, place in zip(stored.split(chunk), inputs.split(chunk), strict=True):
            self.transform.normalise(some, out=place)
        return inputs

    def _stored(self, identity: NDArray[np.int64]) -> Tensor:
        """The examples as the pool stores them, turned: `[n, *shape]`."""
        x = self._x.take(identity // 4, axis=0)
        turns = identity % 4
        for turn in range(1, 4):
            where = np.flatnonzero(turns == turn)
            if where.size:
                # The copy is contiguous: scattering rows of a turned view would go pixel by pixel.
                x[where] = np.ascontiguousarray(np.rot90(x[where], turn, (-2, -1)))
        return torch.from_numpy(x)
