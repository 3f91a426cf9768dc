"""Environments from the group `env`."""

from __future__ import annotations

from contextlib import closing

from mads4.config import (
    CustomEnv,
    EnvConfig,
    MatrixGameEnv,
)
from mads4.envs.registry import EnvFactory
from mads4.types import EnvSpec


def environment(config: EnvConfig) -> EnvFactory:
    """Return a picklable maker of environments."""
    if isinstance(config, CustomEnv):
        return EnvFactory("custom", {"factory": config.factory, "options": config.options})
    if isinstance(config, MatrixGameEnv):
        return EnvFactory(
            config.name, {"payoff": config.payoff, "episode_limit": config.episode_limit}
        )
    return EnvFactory(
        config.name,
        {
            "scenario": config.scenario,
            "reward": config.reward,
            "state_encoding": config.state_encoding,
            "options": config.options,
        },
    )


def env_spec(make_env: EnvFactory) -> EnvSpec:
    """Return the spec of the environments that a factory makes."""
    with closing(make_env()) as env:
        return env.spec
