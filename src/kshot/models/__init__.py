"""Backbones and their parts."""

from kshot.models.backbone import Backbone, Frozen, Network
from kshot.models.conv4 import Conv4
from kshot.models.memory import LRUAMemory, Memory, NTMMemory
from kshot.models.mlp import MLP
from kshot.models.norms import Sequential, Statistics, TaskBatchNorm
from kshot.models.pooling import MaxPool2d
from kshot.models.resnet12 import ResNet12

__all__ = [
    "MLP",
    "Backbone",
    "Conv4",
    "Frozen",
    "LRUAMemory",
    "MaxPool2d",
    "Memory",
    "NTMMemory",
    "Network",
    "ResNet12",
    "Sequential",
    "Statistics",
    "TaskBatchNorm",
]
