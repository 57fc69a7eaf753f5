"""Many tasks at once: a learner's single-task hooks turned into a meta-batch by `loop`, `vmap`, `compile` or
`native`."""

from kshot.engine.auto import choose
from kshot.engine.features import FeatureCache, compute_features, with_features
from kshot.engine.inner import gradient_descent
from kshot.engine.tasks import MODES, compile_backend, map_tasks, predict_queries, task_losses

__all__ = [
    "MODES",
    "FeatureCache",
    "choose",
    "compile_backend",
    "compute_features",
    "gradient_descent",
    "map_tasks",
    "predict_queries",
    "task_losses",
    "with_features",
]
