"""Policies: what maps histories of agents to their next actions."""

from mads4.models.base import SequencePolicy
from mads4.models.mlp import MlpPolicy
from mads4.models.policy import Mads4Policy
from mads4.models.policy_state import PolicyState

__all__ = ["Mads4Policy", "MlpPolicy", "PolicyState", "SequencePolicy"]
