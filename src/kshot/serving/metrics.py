"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

if TYPE_CHECKING:
    from kshot.serving.service import Service

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SCORES = (-3, -2, -1, 0, 1, 2, 3, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The server's counters; `registry` holds them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "kshot"}
        self.requests = Histogram(
            "request_seconds", "From a request's headers to its answer", ("route", "status"), buckets=_SECONDS, **own
        )
        self.stages = Histogram("stage_seconds", "Of the work of a request", ("stage",), buckets=_SECONDS, **own)
        self.waits = Histogram("wait_seconds", "Of jobs for their lane", ("lane",), buckets=_SECONDS, **own)
        self.batches = Histogram("batch_jobs", "Jobs that were computed together", ("lane",), buckets=_SIZES, **own)
        self.examples = Histogram("batch_examples", "Examples of a batch", ("lane",), buckets=_SIZES, **own)
        self.refused = Counter("refused", "Requests that were turned away", ("reason",), **own)
        self.drift = Histogram(
            "drift_score", "Of a task's queries of some seconds: how far they lie, around 0", buckets=_SCORES, **own
        )
        self._own = own
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []

    def lane(self, name: str, jobs: int, size: int, waits: list[float], seconds: float) -> None:
        """Notes a batch of a lane."""
        self.batches.labels(name).observe(jobs)
        self.examples.labels(name).observe(size)
        self.stages.labels(name).observe(seconds)
        wait = self.waits.labels(name)
        for one in waits:
            wait.observe(one)

    def watch(self, service: Service) -> None:
        """Notes the cache and the queues of a service whenever it is told to (`refresh`)."""
        cache = service.cache
        for name, text, value in (
            ("cached_tasks", "Adapted tasks in memory", lambda: len(cache)),
            ("cached_bytes", "Of adapted tasks in memory", lambda: cache.bytes),
            ("cache_hits", "Adapted tasks that were in memory", lambda: cache.hits),
            ("cache_misses", "Adapted tasks that had to be read", lambda: cache.misses),
            ("cache_dropped", "Adapted tasks that had to make room", lambda: cache.dropped),
            ("waiting_predictions", "Examples that wait to be predicted", lambda: service.predictions.waiting),
            ("waiting_adaptations", "Examples that wait to be adapted to", lambda: service.adaptations.waiting),
        ):
            self._gauges.append((Gauge(name, text, multiprocess_mode="livesum", **self._own), value))

    def refresh(self) -> None:
        """Notes what is so now."""
        for gauge, value in self._gauges:
            gauge.set(value())

    def text(self) -> bytes:
        """Of all workers of this server, in Prometheus's format."""
        self.refresh()
        if _FOLDER not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
