"""StarCraft micromanagement with StarCraft II, through SMAC."""

from mads4.envs.smac.settings import SmacConfig

__all__ = ["SmacConfig"]
