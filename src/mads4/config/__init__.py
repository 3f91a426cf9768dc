"""Configuration: the schemas of the commands, and what reads, checks and explains them.

The YAML files of `mads4.conf` hold values; the schema of a group's option stands beside what it
configures and is found by the option's name. `mads4.config.validation.parse` joins the two. Only
`compose` and `directories` import Hydra.
"""

from mads4.config.commands import (
    AnyConfig,
    CollectConfig,
    Command,
    Config,
    EvaluateConfig,
    KernelConfig,
    ProbeConfig,
)
from mads4.config.dataset import (
    PLAYERS,
    AlberdiceDataset,
    CustomDataset,
    DatasetSettings,
    FileDataset,
    GeneratedDataset,
    MadtDataset,
    OgMarlDataset,
    RecordedDataset,
)
from mads4.config.evaluator import EvaluatorConfig, LoggerConfig
from mads4.config.trainer import (
    OfflineOnlineTrainerConfig,
    OfflineTrainerConfig,
    OnlineTrainerConfig,
    TrainerSettings,
)

__all__ = [
    "PLAYERS",
    "AlberdiceDataset",
    "AnyConfig",
    "CollectConfig",
    "Command",
    "Config",
    "CustomDataset",
    "DatasetSettings",
    "EvaluateConfig",
    "EvaluatorConfig",
    "FileDataset",
    "GeneratedDataset",
    "KernelConfig",
    "LoggerConfig",
    "MadtDataset",
    "OfflineOnlineTrainerConfig",
    "OfflineTrainerConfig",
    "OgMarlDataset",
    "OnlineTrainerConfig",
    "ProbeConfig",
    "RecordedDataset",
    "TrainerSettings",
]
