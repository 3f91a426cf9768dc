"""Environments from the group `env`."""

from __future__ import annotations

from contextlib import closing

from mads4.envs.registry import EnvFactory, EnvSettings
from mads4.types import EnvSpec


def environment(config: EnvSettings) -> EnvFactory:
    """Return a picklable maker of environments."""
    return EnvFactory.of(config)


def env_spec(make_env: EnvFactory) -> EnvSpec:
    """Return the spec of the environments that a factory makes."""
    with closing(make_env()) as env:
        return env.spec
