"""Many tasks at once: a learner's single-task hooks turned into a meta-batch by `loop`, `vmap`, `compile` or
`native`."""

from kshot.engine.auto import check_compiled, choose, compiling_fails, losses_and_gradient
from kshot.engine.compiled import CompileWarning, compile_backend
from kshot.engine.features import FeatureCache, compute_features, featured, with_features
from kshot.engine.inner import gradient_descent
from kshot.engine.memory import peak_memory, tensor_bytes
from kshot.engine.meta_gradient import meta_gradient
from kshot.engine.recomputing import recomputing
from kshot.engine.stacked import adapt_and_predict, adapt_tasks, groups_of, predict_tasks, stacked_mode
from kshot.engine.tasks import MODES, map_tasks, predict_queries, task_losses

__all__ = [
    "MODES",
    "CompileWarning",
    "FeatureCache",
    "adapt_and_predict",
    "adapt_tasks",
    "check_compiled",
    "choose",
    "compile_backend",
    "compiling_fails",
    "compute_features",
    "featured",
    "gradient_descent",
    "groups_of",
    "losses_and_gradient",
    "map_tasks",
    "meta_gradient",
    "peak_memory",
    "predict_queries",
    "predict_tasks",
    "recomputing",
    "stacked_mode",
    "task_losses",
    "tensor_bytes",
    "with_features",
]
