"""Raw data to labelled pools: the registry, readers of folders, zips and tables, and the datasets of the field.

Everything heavy (Pillow, scikit-learn, the network) is imported when a dataset is loaded, not before.
"""

from __future__ import annotations

from kshot.datasets.augment import Augmentation
from kshot.datasets.dataset import Dataset
from kshot.datasets.pool import Pool
from kshot.datasets.reading import read_examples, read_images, read_support
from kshot.datasets.registry import entry, find, get, info, load, names, register, resolve_data_dir, unpublished
from kshot.datasets.splits import check_disjoint, split_classes
from kshot.datasets.transform import (
    Column,
    IdentityTransform,
    ImageTransform,
    TableTransform,
    Transform,
    transform_from_dict,
)

__all__ = [
    "Augmentation",
    "Column",
    "Dataset",
    "IdentityTransform",
    "ImageTransform",
    "Pool",
    "TableTransform",
    "Transform",
    "check_disjoint",
    "entry",
    "find",
    "get",
    "info",
    "load",
    "names",
    "read_examples",
    "read_images",
    "read_support",
    "register",
    "resolve_data_dir",
    "split_classes",
    "transform_from_dict",
    "unpublished",
]
