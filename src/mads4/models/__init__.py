"""Policies: what maps histories of agents to their next actions."""

from mads4.models.base import (
    MODELS,
    CustomModelConfig,
    ModelSettings,
    NetworkSettings,
    PolicySequence,
    SequencePolicy,
)
from mads4.models.independent import IndependentPolicy
from mads4.models.mads4 import Mads4Config, Mads4Policy
from mads4.models.mlp import MlpConfig, MlpPolicy
from mads4.models.state import State
from mads4.models.transformer import TransformerConfig, TransformerPolicy

__all__ = [
    "MODELS",
    "CustomModelConfig",
    "IndependentPolicy",
    "Mads4Config",
    "Mads4Policy",
    "MlpConfig",
    "MlpPolicy",
    "ModelSettings",
    "NetworkSettings",
    "PolicySequence",
    "SequencePolicy",
    "State",
    "TransformerConfig",
    "TransformerPolicy",
]
