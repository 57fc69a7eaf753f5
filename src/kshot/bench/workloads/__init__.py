"""The workloads of `kshot bench`, by name."""

from __future__ import annotations

from collections.abc import Callable

from kshot.bench.workload import Workload


def workloads() -> dict[str, Callable[[], Workload]]:
    """Every workload by its name, in the order of the report; made when it is its turn."""
    from kshot.bench.workloads.conv4 import Conv4Maml, ManySteps
    from kshot.bench.workloads.evaluation import Evaluation
    from kshot.bench.workloads.heads import heads
    from kshot.bench.workloads.latency import latencies
    from kshot.bench.workloads.sampling import Sampling
    from kshot.bench.workloads.sinusoid import Sinusoid
    from kshot.bench.workloads.startup import StartUp
    from kshot.bench.workloads.whole import wholes

    made: list[tuple[str, Callable[[], Workload]]] = [
        ("sinusoid-1", lambda: Sinusoid(1)),
        ("sinusoid-5", lambda: Sinusoid(5)),
        ("conv4-maml-5w1s", lambda: Conv4Maml(5, 1, 4)),
        ("conv4-maml-20w5s", lambda: Conv4Maml(20, 5, 1)),
        ("maml-20-steps", ManySteps),
        *wholes(),
        *heads(),
        ("sampling", Sampling),
        ("evaluation-1000", lambda: Evaluation(1000)),
        ("evaluation-10000", lambda: Evaluation(10000)),
        *latencies(),
        ("start-up", StartUp),
    ]
    return dict(made)
