"""Sweeps: the same training with other values, which Optuna chooses on val tasks and other classes confirm.

::

    name: maml
    base: omniglot-maml                 # a configuration: a file, one that ships with kshot, or its keys
    space:
      learner.inner_lr: {low: 0.01, high: 1.0, log: true}
      learner.inner_steps: [1, 3, 5]
      training.meta_batch: {low: 4, high: 32, step: 4}
    trials: 40
"""

from kshot.sweep.results import SweepResult, TrialResult
from kshot.sweep.spec import Choices, Range, SweepSpec, read_spec
from kshot.sweep.sweep import sweep

__all__ = ["Choices", "Range", "SweepResult", "SweepSpec", "TrialResult", "read_spec", "sweep"]
