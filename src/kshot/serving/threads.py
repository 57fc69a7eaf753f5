"""Which threads of the server compute with several cores: one, at any time.

GNU's OpenMP gives each thread that computes in parallel a team of its own, and keeps it. With more threads in all teams
than the machine has cores, those of a team that wait for the next operator go to sleep at once, and are woken for each:
with two teams on two cores the features of 25 images took 5.7 ms in place of 3.1. So adaptations have the only team;
predictions, whose batches come beside a busy event loop, and everything else compute in the thread that they are in.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from kshot.serving.settings import Settings

T = TypeVar("T")


def threads_of(settings: Settings) -> int:
    """How many threads adaptations take: as the settings say, else the cores, shared among the workers."""
    return settings.threads or max(1, (os.cpu_count() or 1) // settings.workers)


def compute_with(threads: int) -> None:
    """Sets how many threads torch's operators take when the calling thread asks for them; 1: no team is made."""
    torch.get_num_threads()  # a thread takes the process's number at its first look, and keeps its own from then on
    torch.set_num_threads(threads)


def compute_alone() -> None:
    """Torch's operators are to run in the calling thread."""
    compute_with(1)


def in_a_thread_that_ends(work: Callable[[], T], threads: int) -> T:
    """What `work` gives, in a thread whose team is gone afterwards."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        compute_with(threads)
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="kshot-start")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
