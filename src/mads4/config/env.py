"""Environments: the group `env`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from mads4.config.fields import Factory, Payoff, Positive, Scenario, Section
from mads4.config.smac import SmacEnv, SmacliteEnv

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


class RwareEnv(Section):
    """The Multi-Robot Warehouse."""

    name: Literal["rware"] = "rware"
    """Environment family."""
    scenario: Scenario = "tiny-2ag"
    """Warehouse size, number of agents and difficulty."""
    reward: Literal["deliveries", "alberdice"] = "deliveries"
    """Team reward: number of deliveries, or AlberDICE's shaped reward of agent 0."""
    state_encoding: Literal["entities", "maps", "coordinates", "alberdice"] = "entities"
    """How the global state is written as numbers."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the environment's constructor."""


class MatrixGameEnv(Section):
    """A matrix game, played again and again."""

    name: Literal["matrix_game"] = "matrix_game"
    """Environment family."""
    payoff: Payoff = [[0, 1], [1, -2]]
    """Team reward of each joint action: nested lists, one axis per agent."""
    episode_limit: Positive = 50
    """Length of an episode, in steps."""


class SmaxEnv(Section):
    """StarCraft battles in jaxmarl's simulator, which runs anywhere."""

    name: Literal["smax"] = "smax"
    """Environment family."""
    scenario: SmaxScenario = "2s3z"
    """Who fights whom; _vs_ where the sides differ, smacv2 for units drawn anew every episode."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the simulator's constructor."""


class CustomEnv(Section):
    """An environment of the user's own."""

    name: Literal["custom"] = "custom"
    """Environment family."""
    factory: Factory
    """Function `package.module:function` that returns a `mads4.envs.protocol.MultiAgentEnv`."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""


EnvConfig: TypeAlias = Annotated[
    RwareEnv | MatrixGameEnv | SmacEnv | SmacliteEnv | SmaxEnv | CustomEnv,
    Field(discriminator="name"),
]
