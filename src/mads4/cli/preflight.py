"""Checks that games, simulators and data sets are installed, before a command starts.

Otherwise a run would train for hours and then fail to evaluate, or a sweep would stop halfway at
the first missing data set.
"""

from __future__ import annotations

from collections.abc import Iterable

from mads4.config import AnyConfig
from mads4.config.compose import Plan
from mads4.config.dataset import RecordedDataset
from mads4.data import registry
from mads4.envs.smac import SmacConfig, installation
from mads4.envs.smaclite import SmacliteConfig
from mads4.envs.smax import SmaxConfig, runtime
from mads4.errors import UserError


def require_present(plan: Plan) -> None:
    """Raise one `UserError` listing everything that the plan's jobs lack, each problem once.

    The packages jaxmarl and smaclite are located, not imported.
    """
    checks = (_simulator, _data)
    problems = [line for check in checks for config in plan.configs for line in check(config)]
    if problems:
        count = len(plan.configs)
        jobs = "the command" if count == 1 else f"some of the {count} jobs"
        head = f"{jobs} cannot run on this machine, and nothing was started:"
        raise UserError("\n".join([head, *(f"- {line}" for line in dict.fromkeys(problems))]))


def _simulator(config: AnyConfig) -> Iterable[str]:
    """Yield what the environment's game or simulator lacks."""
    env = getattr(config, "env", None)
    problems: list[str | None] = []
    if isinstance(env, SmacConfig) and env.simulator == installation.SIMULATOR:
        parts = installation.examine(env.scenario, env.options.game_version)
        problems = [part.problem for part in parts]
    elif isinstance(env, SmaxConfig):
        problems = [runtime.missing()]
    elif isinstance(env, SmacliteConfig) and (absent := installation.lite().problem):
        problems = [f"env=smaclite: {absent}"]
    yield from filter(None, problems)


def _data(config: AnyConfig) -> Iterable[str]:
    """Yield what is wrong with a data set selected by environment and quality."""
    dataset, env = getattr(config, "dataset", None), getattr(config, "env", None)
    if not isinstance(dataset, RecordedDataset) or not isinstance(env, SmacConfig) or dataset.path:
        return
    if env.simulator == installation.SIMULATOR and installation.unknown_map(env.scenario):
        return  # reported by `_simulator`
    try:
        entry = registry.choose(dataset.name, env.name, env.scenario, dataset.quality)
    except UserError as error:
        yield str(error)
        return
    if not entry.is_here:
        yield f"the data set {entry.name} is not on this machine. {entry.how_to_get()}"
