"""Whether games, simulators and data sets of a command line are here, asked before it starts.

A run that trains for hours should not end because there is no game to evaluate in, and a sweep
should not be half done when the first data set is found missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from mads4.config import AnyConfig
from mads4.config.compose import Plan
from mads4.config.dataset import RecordedDataset
from mads4.config.env import SmaxEnv
from mads4.config.smac import SmacEnv, SmacliteEnv
from mads4.data import registry
from mads4.envs.smac import installation, starcraft
from mads4.envs.smax import runtime
from mads4.errors import UserError


def require_present(plan: Plan) -> None:
    """Raise one `UserError` with everything that the plan's jobs in StarCraft's battles lack.

    Of SMAX and SMAClite no package is imported: only whether they are there is asked.
    """
    checks = (_game, _simulator, _data)
    found = [p for check in checks for config in plan.configs for p in check(config)]
    lacking = dict.fromkeys(found)
    if lacking:
        count = len(plan.configs)
        raise UserError(
            "\n".join(
                [
                    f"{'the command' if count == 1 else f'some of the {count} jobs'} cannot run "
                    "on this machine, and nothing was started:",
                    *(f"- {problem}" for problem in lacking),
                ]
            )
        )


def _game(config: AnyConfig) -> Iterable[str]:
    """Yield what StarCraft II lacks; a name that no map has is told, not looked for as a file."""
    env = getattr(config, "env", None)
    if not isinstance(env, SmacEnv) or env.simulator != installation.SIMULATOR:
        return
    unknown = installation.unknown_map(env.scenario)
    if unknown:
        yield unknown
    # Without the game all maps are missing, which is said once.
    any_map = unknown is not None or starcraft.newest_build() is None
    parts = installation.examine(None if any_map else env.scenario, env.options.game_version)
    needed = parts if unknown is None else [part for part in parts if part.name != "maps"]
    yield from (part.problem for part in needed if part.problem)


def _simulator(config: AnyConfig) -> Iterable[str]:
    """Yield which packages of a simulator without the game are missing."""
    env = getattr(config, "env", None)
    problem = None
    if isinstance(env, SmaxEnv):
        problem = runtime.missing()
    elif isinstance(env, SmacliteEnv) and (absent := installation.lite().problem):
        problem = f"env=smaclite: {absent}"
    if problem:
        yield problem


def _data(config: AnyConfig) -> Iterable[str]:
    """Yield what is wrong with a data set that is only known by the environment and a quality."""
    dataset, env = getattr(config, "dataset", None), getattr(config, "env", None)
    if not isinstance(dataset, RecordedDataset) or not isinstance(env, SmacEnv) or dataset.path:
        return
    if env.simulator == installation.SIMULATOR and installation.unknown_map(env.scenario):
        return  # there are no data of no map
    try:
        entry = registry.choose(dataset.name, env.name, env.scenario, dataset.quality)
    except UserError as error:
        yield str(error)
        return
    if not entry.is_here:
        yield f"the data set {entry.name} is not on this machine. {entry.how_to_get()}"
