"""StarCraft battles in jaxmarl's simulator SMAX; the only package that imports JAX."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import ENVS, EnvSettings
from mads4.envs.vector import VectorEnv

SmaxScenario: TypeAlias = Literal[
    "3m",
    "8m",
    "25m",
    "5m_vs_6m",
    "10m_vs_11m",
    "27m_vs_30m",
    "2s3z",
    "3s5z",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "smacv2_5_units",
    "smacv2_10_units",
    "smacv2_20_units",
]
"""SMAX's battles."""


@ENVS.register("smax")
class SmaxConfig(EnvSettings):
    """StarCraft battles in jaxmarl's simulator, which runs anywhere."""

    name: Literal["smax"] = "smax"
    """Environment family."""
    scenario: SmaxScenario = "2s3z"
    """Who fights whom; _vs_ where the sides differ, smacv2 for units drawn in every episode."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the simulator's constructor."""

    @classmethod
    def make(cls, **arguments: Any) -> MultiAgentEnv:
        """Return a new battle."""
        from mads4.envs.smax.battle import SmaxEnv

        return SmaxEnv(**arguments)

    @classmethod
    def make_many(cls, size: int, **arguments: Any) -> VectorEnv:
        """Return `size` battles that are stepped in one call."""
        from mads4.envs.smax.battle import SmaxVector

        return SmaxVector(size, **arguments)
