"""Task sources: distributions of tasks, over a dataset's classes or over families of functions or sequences."""

from __future__ import annotations

from kshot.tasks.cactus import CactusTasks
from kshot.tasks.fewshot import FewShotTasks
from kshot.tasks.functions import FAMILIES, Family
from kshot.tasks.loading import load, make_split
from kshot.tasks.meta_dataset import MetaDatasetTasks
from kshot.tasks.pooled import Composition, PoolTasks
from kshot.tasks.regression import FunctionTasks
from kshot.tasks.sequence_tasks import SequenceTasks
from kshot.tasks.sequences import SEQUENCES, Sequences
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit
from kshot.tasks.umtra import UmtraTasks
from kshot.tasks.variable import VariableTasks

GENERATED = frozenset({*FAMILIES, *SEQUENCES})
"""The names of the families whose tasks are generated, without data."""

__all__ = [
    "FAMILIES",
    "GENERATED",
    "SEQUENCES",
    "CactusTasks",
    "Composition",
    "Family",
    "FewShotTasks",
    "FunctionTasks",
    "MetaDatasetTasks",
    "PoolTasks",
    "SequenceTasks",
    "Sequences",
    "TaskSource",
    "TaskSplit",
    "UmtraTasks",
    "VariableTasks",
    "load",
    "make_split",
]
