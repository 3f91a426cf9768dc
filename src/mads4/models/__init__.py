"""Policies: what maps histories of agents to their next actions."""

from mads4.models.policy import Mads4Policy, PolicyState

__all__ = ["Mads4Policy", "PolicyState"]
