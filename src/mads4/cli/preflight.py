"""Checks that games, simulators, data sets and checkpoints are there, before a command starts.

Otherwise a run would train for hours and then fail to evaluate, or a sweep would stop halfway at
the first missing data set.
"""

from __future__ import annotations

from collections.abc import Iterable

from mads4.config import AnyConfig, Config
from mads4.config.compose import Plan
from mads4.data import registry
from mads4.data.settings import RecordedDataset
from mads4.envs.smac import SmacConfig, installation
from mads4.errors import UserError


def require_present(plan: Plan) -> None:
    """Raise one `UserError` listing everything that the plan's jobs lack, each problem once.

    Packages of the environments are located, not imported, save for SMAC's.
    """
    problems = [
        line for check in (_env, _data) for config in plan.configs for line in check(config)
    ]
    problems += _checkpoints(plan)
    if problems:
        count = len(plan.configs)
        jobs = "the command" if count == 1 else f"some of the {count} jobs"
        head = f"{jobs} cannot run on this machine, and nothing was started:"
        raise UserError("\n".join([head, *(f"- {line}" for line in dict.fromkeys(problems))]))


def _env(config: AnyConfig) -> Iterable[str]:
    """Return what the environment's game or simulator lacks."""
    return [] if config.env is None else config.env.missing()


def _data(config: AnyConfig) -> Iterable[str]:
    """Yield what is wrong with a data set selected by environment and quality."""
    dataset, env = getattr(config, "dataset", None), config.env
    if not isinstance(dataset, RecordedDataset) or not isinstance(env, SmacConfig) or dataset.path:
        return
    if env.simulator == installation.SIMULATOR and installation.unknown_map(env.scenario):
        return  # reported by `_env`
    try:
        entry = registry.choose(dataset.name, env.name, env.scenario, dataset.quality)
    except UserError as error:
        yield str(error)
        return
    if not entry.is_here:
        yield f"the data set {entry.name} is not on this machine. {entry.how_to_get()}"


def _checkpoints(plan: Plan) -> Iterable[str]:
    """Yield what is wrong with the checkpoints that new runs start from; each is read once."""
    fresh = [c for c in plan.configs if isinstance(c, Config) and c.resume is None]
    for source in dict.fromkeys(config.init_from for config in fresh if config.init_from):
        from mads4.experiment.sources import policy_checkpoint  # imports torch

        try:
            policy_checkpoint(source)
        except UserError as error:
            yield f"init_from: {error}"
