"""Save and load a learner or an adapted task: safetensors and JSON, never pickle.

What is written is there as a whole or not at all (`atomic_file`, `atomic_folder`); what is read is checked: its format,
its keys, its digest.
"""

from kshot.artifacts.atomic import atomic_file, atomic_folder, check_place, remove_leftovers
from kshot.artifacts.learner import (
    FORMAT,
    digest,
    find_learner,
    from_pretrained,
    load_learner,
    load_state,
    save_pretrained,
)
from kshot.artifacts.task import load_adapted, save_adapted
from kshot.artifacts.tensors import hash_tensors, load_tensors, save_tensors
from kshot.artifacts.tree import flatten, unflatten

__all__ = [
    "FORMAT",
    "atomic_file",
    "atomic_folder",
    "check_place",
    "digest",
    "find_learner",
    "flatten",
    "from_pretrained",
    "hash_tensors",
    "load_adapted",
    "load_learner",
    "load_state",
    "load_tensors",
    "remove_leftovers",
    "save_adapted",
    "save_pretrained",
    "save_tensors",
    "unflatten",
]
