"""The outer loop: `Trainer`, its callbacks and loggers, and the ordinary training that baselines start from.

Configurations and what builds what they describe are imported from `kshot.training.config`, since they need pydantic.
"""

from kshot.training.callbacks import Callback
from kshot.training.loggers import Logger, MlflowLogger, RunInfo, TensorBoardLogger, WandbLogger
from kshot.training.pretrain import PretrainedNetwork, fresh_backbone, load_network, pretrain, save_network
from kshot.training.trainer import Trainer, TrainResult

__all__ = [
    "Callback",
    "Logger",
    "MlflowLogger",
    "PretrainedNetwork",
    "RunInfo",
    "TensorBoardLogger",
    "TrainResult",
    "Trainer",
    "WandbLogger",
    "fresh_backbone",
    "load_network",
    "pretrain",
    "save_network",
]
