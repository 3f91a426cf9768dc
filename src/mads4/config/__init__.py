"""What may be configured: one frozen, strictly typed schema for each configuration group.

The YAML files of `mads4.conf` hold the values, these classes say what they mean and what is
allowed; `mads4.config.validation.parse` joins the two. Nothing here imports torch or hydra.
"""

from mads4.config.algorithm import AlgorithmConfig
from mads4.config.commands import (
    AnyConfig,
    CollectConfig,
    Command,
    Config,
    EvaluateConfig,
    ProbeConfig,
)
from mads4.config.dataset import (
    PLAYERS,
    AlberdiceDataset,
    CustomDataset,
    DatasetConfig,
    DatasetSection,
    FileDataset,
    GeneratedDataset,
    MadtDataset,
    OgMarlDataset,
    RecordedDataset,
)
from mads4.config.env import CustomEnv, EnvConfig, MatrixGameEnv, RwareEnv, SmaxEnv
from mads4.config.evaluator import EvaluatorConfig, LoggerConfig
from mads4.config.fields import Section, SSMParameter
from mads4.config.model import (
    CustomModelConfig,
    KernelConfig,
    Mads4Config,
    MlpConfig,
    ModelConfig,
    TransformerConfig,
)
from mads4.config.smac import SmacEnv, SmacliteEnv
from mads4.config.trainer import (
    OfflineOnlineTrainerConfig,
    OfflineTrainerConfig,
    OnlineTrainerConfig,
    TrainerConfig,
)

__all__ = [
    "PLAYERS",
    "AlberdiceDataset",
    "AlgorithmConfig",
    "AnyConfig",
    "CollectConfig",
    "Command",
    "Config",
    "CustomDataset",
    "CustomEnv",
    "CustomModelConfig",
    "DatasetConfig",
    "DatasetSection",
    "EnvConfig",
    "EvaluateConfig",
    "EvaluatorConfig",
    "FileDataset",
    "GeneratedDataset",
    "KernelConfig",
    "LoggerConfig",
    "Mads4Config",
    "MadtDataset",
    "MatrixGameEnv",
    "MlpConfig",
    "ModelConfig",
    "OfflineOnlineTrainerConfig",
    "OfflineTrainerConfig",
    "OgMarlDataset",
    "OnlineTrainerConfig",
    "ProbeConfig",
    "RecordedDataset",
    "RwareEnv",
    "SSMParameter",
    "Section",
    "SmacEnv",
    "SmacliteEnv",
    "SmaxEnv",
    "TrainerConfig",
    "TransformerConfig",
]
