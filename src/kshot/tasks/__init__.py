"""Task sources: distributions of tasks, over a dataset's classes or over families of functions."""

from __future__ import annotations

from kshot.tasks.cactus import CactusTasks
from kshot.tasks.fewshot import FewShotTasks
from kshot.tasks.functions import FAMILIES, Family
from kshot.tasks.loading import load, make_split
from kshot.tasks.meta_dataset import MetaDatasetTasks
from kshot.tasks.pooled import Composition, PoolTasks
from kshot.tasks.regression import FunctionTasks
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit
from kshot.tasks.umtra import UmtraTasks
from kshot.tasks.variable import VariableTasks

__all__ = [
    "FAMILIES",
    "CactusTasks",
    "Composition",
    "Family",
    "FewShotTasks",
    "FunctionTasks",
    "MetaDatasetTasks",
    "PoolTasks",
    "TaskSource",
    "TaskSplit",
    "UmtraTasks",
    "VariableTasks",
    "load",
    "make_split",
]
