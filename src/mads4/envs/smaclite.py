"""SMAClite (Michalski et al. 2023) as an environment: SMAC's battles without StarCraft II."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt

from mads4.envs import requirements
from mads4.envs.registry import ENVS, EnvSettings
from mads4.envs.smac import Map
from mads4.envs.smac.maps import MAPS
from mads4.errors import UserError, did_you_mean
from mads4.provenance import version as package_version
from mads4.settings import Positive
from mads4.types import EnvSpec, IntArray, TimeStep

NAMESPACE = "smaclite/"


class SmacliteEnv:
    """A battle in SMAClite, which must be installed.

    It has SMAC's observations, states and actions, but no step limit: SMAC's limit is applied, as
    a truncation.

    Args:
        scenario: name of a map that SMAClite has.
        episode_limit: steps after which an episode is truncated; None for SMAC's limit.
        options: keyword arguments of SMAClite's environment, for example ``use_cpp_rvo2``.

    Raises:
        UserError: SMAClite is missing, has no such map, or rejects the options.
    """

    def __init__(
        self,
        scenario: str = "2s3z",
        episode_limit: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._game = _make(scenario, dict(options or {}))
        limit = episode_limit or (MAPS[scenario].episode_limit if scenario in MAPS else None)
        if limit is None:
            raise UserError(
                f"env.episode_limit: required; SMAC has no map '{scenario}' that defines one."
            )
        self._time = 0
        self.spec = EnvSpec(
            name="smaclite",
            scenario=scenario,
            n_agents=int(self._game.n_agents),
            obs_dim=int(self._game.obs_size),
            state_dim=int(self._game.state_size),
            n_actions=int(self._game.n_actions),
            episode_limit=limit,
            reward="smac",
            state_encoding="smac",
            version=f"smaclite {package_version('smaclite') or 'unknown'}",
        )
        """Sizes, reward definition and version."""

    def reset(self, seed: int) -> TimeStep:
        """Start a battle; the same seed and actions give the same battle."""
        # States contain the last actions, which SMAClite's own reset does not clear.
        self._game.last_actions = np.zeros(self.spec.n_agents * self.spec.n_actions)
        observation, _ = self._game.reset(seed=seed)
        self._time = 0
        return self._time_step(observation)

    def step(self, actions: IntArray) -> TimeStep:
        """Execute ``actions`` (N,): 0 no-op (dead units), 1 stop, 2 to 5 move, 6 … attack."""
        # SMAClite checks types: it rejects NumPy's integers.
        observation, reward, ended, cut, info = self._game.step([int(a) for a in actions])
        self._time += 1
        over = cut or self._time >= self.spec.episode_limit
        return self._time_step(
            observation,
            reward=float(reward),
            terminated=bool(ended),
            truncated=bool(over and not ended),
            won=float(info["battle_won"]),
        )

    def render(self) -> npt.NDArray[np.uint8]:
        """Return SMAClite's image of the battlefield, (height, width, 3) uint8 RGB."""
        return np.asarray(self._game.render(), dtype=np.uint8)

    def close(self) -> None:
        """Close the window, if there is one."""
        self._game.close()

    def _time_step(self, observation: Any, won: float = 0.0, **outcome: Any) -> TimeStep:
        return TimeStep(
            observation=np.asarray(observation, dtype=np.float32),
            state=np.asarray(self._game.get_state(), dtype=np.float32)[None],
            available_actions=np.asarray(self._game.get_avail_actions()).astype(np.bool_),
            metrics={"win": won},
            **outcome,
        )


@ENVS.register("smaclite")
class SmacliteConfig(EnvSettings):
    """SMAClite: StarCraft's battles without the game."""

    name: Literal["smaclite"] = "smaclite"
    """Environment family."""
    scenario: Map = "2s3z"
    """Map; SMAClite has some of SMAC's."""
    episode_limit: Positive | None = None
    """Steps after which an episode is truncated; null for SMAC's limit of the same map."""
    options: dict[str, Any] = {}
    """Keyword arguments of its environment, for example `use_cpp_rvo2`."""

    @classmethod
    def make(cls, **arguments: Any) -> SmacliteEnv:
        """Return a new battle."""
        return SmacliteEnv(**arguments)


def _make(scenario: str, options: dict[str, Any]) -> Any:
    if absent := requirements.missing("env=smaclite"):
        raise UserError(f"env=smaclite: {absent}. env=smax runs without it.")
    try:
        import_module("smaclite")  # registers its maps
    except Exception as error:
        problem = requirements.import_problem("smaclite", error)
        raise UserError(f"env=smaclite: {problem}.") from error
    known = [key for key in gymnasium.registry if key.startswith(NAMESPACE)]
    key = f"{NAMESPACE}{scenario}-v0"
    if key not in known:
        maps = [name.removeprefix(NAMESPACE).removesuffix("-v0") for name in known]
        near = did_you_mean(scenario, maps)
        raise UserError(
            f"env.scenario: SMAClite has no map '{scenario}'; it has {', '.join(maps)}.{near}"
        )
    options = {"render_mode": "rgb_array"} | options
    try:
        # Gymnasium's wrappers would check for features that SMAClite lacks, such as a step limit.
        return gymnasium.make(key, disable_env_checker=True, **options).unwrapped
    except TypeError as error:
        raise UserError(f"env.options: SMAClite rejects {options}: {error}") from error
