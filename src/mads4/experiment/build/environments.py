"""Environments from the group `env`."""

from __future__ import annotations

from contextlib import closing

from mads4.config import (
    CustomEnv,
    EnvConfig,
    MatrixGameEnv,
    SmacEnv,
    SmacliteEnv,
    SmaxEnv,
)
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import Supervision
from mads4.types import EnvSpec


def environment(config: EnvConfig) -> EnvFactory:
    """Return a picklable maker of environments."""
    if isinstance(config, CustomEnv):
        return EnvFactory("custom", {"factory": config.factory, "options": config.options})
    if isinstance(config, MatrixGameEnv):
        return EnvFactory(
            config.name, {"payoff": config.payoff, "episode_limit": config.episode_limit}
        )
    if isinstance(config, SmacEnv):
        return _smac(config)
    if isinstance(config, SmaxEnv):
        return EnvFactory(config.name, {"scenario": config.scenario, "options": config.options})
    if isinstance(config, SmacliteEnv):
        return EnvFactory(config.name, config.model_dump(exclude={"name"}))
    return EnvFactory(
        config.name,
        {
            "scenario": config.scenario,
            "reward": config.reward,
            "state_encoding": config.state_encoding,
            "options": config.options,
        },
    )


def _smac(config: SmacEnv) -> EnvFactory:
    """Return a maker of game environments, each looked after in a process of its own."""
    arguments = config.model_dump(
        include={"scenario", "observation", "simulator", "relaunch_every"}
    )
    changed = config.options.model_dump(exclude_defaults=True)
    return EnvFactory(
        config.name,
        arguments | {"options": changed | config.extra_options},
        Supervision(**config.supervision.model_dump()),
    )


def env_spec(make_env: EnvFactory) -> EnvSpec:
    """Return the spec of the environments that a factory makes."""
    with closing(make_env()) as env:
        return env.spec
