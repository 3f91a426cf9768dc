"""StarCraft II as an environment, through SMAC (Samvelyan et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import BrokenEpisodeError
from mads4.envs.smac import installation
from mads4.envs.smac.features import BUILDERS
from mads4.envs.smac.maps import MAPS
from mads4.envs.smac.units import MEDIVAC_MAP, map_of, read_battlefield
from mads4.errors import UserError, did_you_mean, first_line, require_choice
from mads4.provenance import version as package_version
from mads4.types import BoolArray, EnvSpec, FloatArray, IntArray, TimeStep

NATIVE = "native"
"""The observations and states that the simulator's `get_obs` and `get_state` return."""
FEATURE_OPTIONS = ("obs_", "state_")
"""Prefixes of the simulator's options that affect native observations and states only."""
OUTSIDE = ("pysc2", "websocket", "s2clientprotocol", "portpicker")
"""Packages whose exceptions mean that the game failed, not a bug in mads4."""


class SmacEnv:
    """A battle of StarCraft II: each agent controls one unit against the built-in AI.

    The game's random generator is seeded at launch and continues across battles: episodes are
    functions of their seeds and actions only if `relaunch_every` = 1.

    Args:
        scenario: name of a map.
        observation: ``smac`` or ``mappo``, see `mads4.envs.smac.features`; ``native`` for the
            simulator's own, with its options ``obs_*`` and ``state_*``.
        simulator: ``package.module:class`` with the interface of `smac.env.StarCraft2Env`.
        relaunch_every: episodes after which the game is relaunched; 0 for never.
        options: keyword arguments of the simulator that differ from its defaults.

    Raises:
        UserError: package, game or map are missing or incompatible; the message has the fix.
    """

    def __init__(
        self,
        scenario: str = "3m",
        observation: str = "smac",
        simulator: str = installation.SIMULATOR,
        relaunch_every: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        options = dict(options or {})
        _require_features(observation, options)
        if simulator == installation.SIMULATOR:
            installation.require(scenario, options.get("game_version"))
        self._make = installation.load(simulator)
        self._scenario, self._options = scenario, options
        self._builder = BUILDERS.get(observation)
        self._relaunch_every = relaunch_every
        self._episodes = 0
        """Episodes since the launch."""
        self._game = self._construct(seed=None)
        self.spec = self._specify(observation, simulator)
        """Sizes, reward definition, and the versions of package and game."""

    def reset(self, seed: int) -> TimeStep:
        """Start a battle; `seed` is used only if the game is launched for it.

        Raises:
            BrokenEpisodeError: the game failed.
        """
        due = self._relaunch_every and self._episodes >= self._relaunch_every
        if self._game is None or due or self._episodes == 0:
            self.close()
            self._game = self._construct(seed)
        self._episodes += 1
        restarts = self._restarts()
        self._call("reset")
        if self._restarts() != restarts:
            self._abort("had to relaunch its game while an episode began")
        return self._time_step()

    def step(self, actions: IntArray) -> TimeStep:
        """Execute ``actions`` (N,): 0 no-op (dead units), 1 stop, 2 to 5 move, 6 … attack.

        Raises:
            BrokenEpisodeError: the game failed.
        """
        restarts = self._restarts()
        reward, ended, info = self._call("step", [int(action) for action in actions])
        if "battle_won" not in info or self._restarts() != restarts:
            # SMAC returns (0, True, {}) after it has lost the game and relaunched it.
            self._abort("lost its game in the middle of an episode")
        self._check_victory(bool(ended), info)
        return self._time_step(
            reward=float(reward),
            terminated=bool(ended) and not info.get("episode_limit", False),
            truncated=bool(ended) and bool(info.get("episode_limit", False)),
            won=float(info["battle_won"]),
        )

    def render(self) -> npt.NDArray[np.uint8]:
        """Return the simulator's image of the battlefield, (height, width, 3) uint8 RGB."""
        return np.asarray(self._game.render(mode="rgb_array"), dtype=np.uint8)

    def close(self) -> None:
        """End the game."""
        game, self._game, self._episodes = self._game, None, 0
        if game is not None:
            with suppress(Exception):  # a crashed game may fail in any way
                game.close()

    def _construct(self, seed: int | None) -> Any:
        """Return a simulator; it launches its game at the first reset."""
        # SMAC reports its step limit only in "continuing" episodes, which differ in nothing else.
        arguments = {"continuing_episode": True} | self._options
        if seed is not None:
            arguments["seed"] = seed
        try:
            return self._make(map_name=self._scenario, **arguments)
        except KeyError as error:
            near = did_you_mean(self._scenario, MAPS)
            raise UserError(
                f"env.scenario: the simulator has no map '{self._scenario}' ({error}).{near}"
            ) from error
        except TypeError as error:
            raise UserError(
                f"env.options: the simulator rejects {self._options}: {error}"
            ) from error

    def _specify(self, observation: str, simulator: str) -> EnvSpec:
        info = self._game.get_env_info()
        obs_dim, state_dim = int(info["obs_shape"]), int(info["state_shape"])
        if self._builder is not None:
            obs_dim, state_dim = self._builder.sizes(map_of(self._game))
        reward = [f"{k}={v}" for k, v in sorted(self._options.items()) if k.startswith("reward_")]
        return EnvSpec(
            name="smac",
            scenario=self._scenario,
            n_agents=int(info["n_agents"]),
            obs_dim=obs_dim,
            state_dim=state_dim,
            n_actions=int(info["n_actions"]),
            episode_limit=int(info["episode_limit"]),
            reward=f"smac({', '.join(reward)})" if reward else "smac",
            state_encoding=observation,
            state_per_agent=self._builder is not None and self._builder.state_per_agent,
            version=_version(simulator, self._options.get("game_version")),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._game, name)(*arguments)
        except Exception as error:
            if not _is_game_failure(error):
                raise
            self._abort(f"failed in {name} ({first_line(error)})", error)

    def _restarts(self) -> int:
        """Return how often the simulator has relaunched its game after a failure."""
        return int(getattr(self._game, "force_restarts", 0))

    def _check_victory(self, ended: bool, info: Mapping[str, Any]) -> None:
        """Abort the episode if SMAC's result contradicts its counts of dead units.

        A battle is won when all enemies are dead. Maps with healers cannot be checked: SMAC counts
        a healer as dead once it is the last unit of its side.
        """
        if "dead_enemies" not in info or self._game.map_type == MEDIVAC_MAP:
            return
        won = bool(info["battle_won"])
        dead, fallen = int(info["dead_enemies"]), int(info["dead_allies"])
        expected = dead == self._game.n_enemies and fallen < self._game.n_agents
        if won != expected or (won and not ended):
            self._abort(
                f"says that the battle is {'won' if won else 'not won'}"
                f"{'' if ended else ' and goes on'} with {dead} of {self._game.n_enemies} enemies "
                f"and {fallen} of {self._game.n_agents} agents dead"
            )

    def _abort(self, reason: str, cause: Exception | None = None) -> NoReturn:
        self.close()
        raise BrokenEpisodeError(reason) from cause

    def _time_step(self, won: float = 0.0, **outcome: Any) -> TimeStep:
        available = np.asarray(self._game.get_avail_actions(), dtype=np.bool_)
        observation, state = self._features(available)
        return TimeStep(observation, state, available, metrics={"win": won}, **outcome)

    def _features(self, available: BoolArray) -> tuple[FloatArray, FloatArray]:
        if self._builder is None:
            state = np.asarray(self._game.get_state(), dtype=np.float32)
            return np.asarray(self._game.get_obs(), dtype=np.float32), state[None]
        field = read_battlefield(self._game, available)
        return self._builder.observation(field), self._builder.state(field)


def _require_features(observation: str, options: Mapping[str, Any]) -> None:
    """Raise `UserError` for an unknown builder, or for options that it would ignore."""
    require_choice("env.observation", observation, (*BUILDERS, NATIVE))
    ignored = [name for name in options if name.startswith(FEATURE_OPTIONS)]
    if observation != NATIVE and ignored:
        raise UserError(
            f"env.options.{ignored[0]}: affects the simulator's own observations only; set "
            f"env.observation={NATIVE}."
        )


def _version(simulator: str, game_version: str | None) -> str:
    """Return the versions of package and game; results are comparable only within one."""
    package = simulator.partition(".")[0].partition(":")[0]
    chosen = f"{game_version}, " if game_version else ""
    version = package_version(package) or "unknown"
    build = installation.build_of(game_version) or "unknown"
    return f"{package} {version}, StarCraft II {chosen}build {build}"


def _is_game_failure(error: Exception) -> bool:
    """Return whether an exception comes from the game or the connection to it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    outside = {raised_in.partition(".")[0], type(error).__module__.partition(".")[0]}
    return bool(outside & set(OUTSIDE)) or isinstance(error, (OSError, EOFError))
