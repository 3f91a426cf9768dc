"""Whether games and data sets that a command line needs are here, asked before it starts.

A run that trains for hours should not end because there is no game to evaluate in, and a sweep
should not be half done when the first data set is found missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from mads4.cli.compose import Plan
from mads4.config import AnyConfig, SmacEnv
from mads4.config.dataset import RecordedDataset
from mads4.data import registry
from mads4.envs.smac import installation
from mads4.errors import UserError


def require_present(plan: Plan) -> None:
    """Raise one `UserError` with everything that the plan's jobs in StarCraft II lack."""
    jobs = [c for c in plan.configs if isinstance(getattr(c, "env", None), SmacEnv)]
    found = [problem for check in (_game, _data) for config in jobs for problem in check(config)]
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
    env = getattr(config, "env", None)
    assert isinstance(env, SmacEnv)
    if env.simulator != installation.SIMULATOR:
        return []
    # Without the game all maps are missing, which is said once.
    scenario = None if installation.game_build() is None else env.scenario
    parts = installation.examine(scenario, env.options.game_version)
    return [part.problem for part in parts if part.problem]


def _data(config: AnyConfig) -> Iterable[str]:
    """Yield what is wrong with a data set that is only known by the environment and a quality."""
    dataset, env = getattr(config, "dataset", None), getattr(config, "env", None)
    if not isinstance(dataset, RecordedDataset) or not isinstance(env, SmacEnv) or dataset.path:
        return
    try:
        entry = registry.choose(dataset.name, env.name, env.scenario, dataset.quality)
    except UserError as error:
        yield str(error)
        return
    if not entry.is_here:
        yield f"the data set {entry.name} is not on this machine. {entry.how_to_get()}"
