"""SMAX compiled: a batch of battles is reset, or advanced by one step, in one call.

The batch size is always `WIDTH`, for one battle as for hundreds (then in several calls): XLA orders
products and sums differently for different batch sizes, and a rounding error in the last digit
grows to another outcome. With one program, an episode is the same bit for bit, alone or in a batch,
in any row. Eight battles cost hardly more than one.
"""

from __future__ import annotations

import json
import logging
import time
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from mads4.envs.smax import SmaxScenario, import_jax, keep_programs
from mads4.errors import UserError, require_choice
from mads4.provenance import version as package_version
from mads4.types import EnvSpec, IntArray

_LOG = logging.getLogger(__name__)

WIDTH = 8
"""Battles per call."""

SCENARIOS = get_args(SmaxScenario)
"""Allies, and enemies where they differ: m marines, s stalkers, z zealots, h hydralisks."""
REWARD = "damage_and_win"
"""Share of the enemies' health removed by the step, plus 1 for the step that wins the battle."""
STOP = 4
"""The only action of a dead unit; 0 to 3 move north, east, south, west, 5 + j attacks enemy j."""
FIXED = ("scenario", "action_type", "observation_type", "use_self_play_reward", "won_battle_bonus")
"""jaxmarl's options that would change the environment's interface or reward."""

Array = npt.NDArray[Any]


class Units(NamedTuple):
    """All units of a battle, whether or not an agent sees them: the N allies, then the enemies."""

    position: Array
    """(U, 2) float32, x and y."""
    health: Array
    """(U,) float32."""
    alive: Array
    """(U,) bool."""
    kind: Array
    """(U,) uint8, unit type, an index into the arrays of `Rules`."""
    cooldown: Array
    """(U,) float32, seconds until the unit can attack again; at once if not positive."""
    target: Array
    """(U,) int32, the last action if it was an attack, else 0."""


class Shown(NamedTuple):
    """A batch of battles after a reset or step; all arrays have a leading batch axis."""

    observation: Array
    """(N, obs_dim) float32."""
    state: Array
    """(1, state_dim) float32."""
    available_actions: Array
    """(N, n_actions) bool."""
    reward: Array
    """() float32, team reward."""
    terminated: Array
    """() bool: one side is dead."""
    truncated: Array
    """() bool: both sides are alive at the time limit."""
    win: Array
    """() bool: all enemies are dead, but not all allies."""
    units: Units


class Rules(NamedTuple):
    """Properties of the unit types, each array (types,), and of the battle."""

    n_allies: int
    names: tuple[str, ...]
    health: Array
    reach: Array
    """Attack range."""
    radius: Array
    size: tuple[float, float]
    """Width and height of the map, whose edge kills."""
    step_seconds: float


class Engine:
    """Compiled reset and step functions of one scenario, on plain arrays.

    Args:
        scenario: one of `SCENARIOS`.
        options: further keyword arguments of jaxmarl's ``HeuristicEnemySMAX``.

    Raises:
        UserError: jaxmarl is missing; an unknown scenario, a fixed or unknown option.
    """

    def __init__(self, scenario: str, options: dict[str, Any]) -> None:
        require_choice("env.scenario", scenario, SCENARIOS)
        if fixed := [name for name in FIXED if name in options]:
            raise UserError(f"env.options: '{fixed[0]}' is fixed for env=smax; leave it out.")
        self._jax, smax, self._heuristics = import_jax()
        keep_programs(self._jax)
        try:
            self._env = smax.HeuristicEnemySMAX(
                scenario=smax.map_name_to_scenario(scenario), **options
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"env.options: SMAX rejects {options}: {error}") from error
        game = self._env._env
        versions = (f"{name} {package_version(name)}" for name in ("jaxmarl", "jax"))
        self.spec = EnvSpec(
            name="smax",
            scenario=scenario,
            n_agents=game.num_allies,
            obs_dim=game.obs_size,
            state_dim=game.state_size,
            n_actions=game.num_ally_actions,
            episode_limit=game.max_steps,
            reward=REWARD,
            state_encoding="units",
            version=", ".join(versions),
        )
        self.rules = Rules(
            n_allies=game.num_allies,
            names=tuple(game.unit_type_names),
            health=np.array(game.unit_type_health),
            reach=np.array(game.unit_type_attack_ranges),
            radius=np.array(game.unit_type_radiuses),
            size=(float(game.map_width), float(game.map_height)),
            step_seconds=game.world_steps_per_env_step * game.time_per_step,
        )

    def blank(self) -> Any:
        """Return `WIDTH` battles to be reset; the first call compiles reset and step."""
        if not hasattr(self, "_battles"):
            self._compile()
        numpy = self._jax.numpy
        return self._jax.tree.map(lambda leaf: numpy.zeros(leaf.shape, leaf.dtype), self._battles)

    def reset(self, battles: Any, seed: IntArray, mask: Array) -> tuple[Any, Shown]:
        """Reset the battles where `mask` is True; only their rows of the result are valid.

        Args:
            battles: as returned by the last call; not modified.
            seed: (WIDTH,) int64, not negative.
            mask: (WIDTH,) bool.
        """
        words = np.stack([seed >> 32, seed & 0xFFFFFFFF], axis=-1).astype(np.uint32)
        done: tuple[Any, Shown] = self._reset(battles, words, mask)
        return done

    def step(self, battles: Any, action: IntArray, mask: Array) -> tuple[Any, Shown]:
        """Advance the battles where `mask` (WIDTH,) is True by ``action`` (WIDTH, N) int64."""
        done: tuple[Any, Shown] = self._step(battles, action.astype(np.int32), mask)
        return done

    def heuristic_memory(self) -> Any:
        """Return the initial state of jaxmarl's heuristic policy."""
        first = self._heuristics.get_heuristic_policy_initial_state()
        count, stack = self.spec.n_agents, self._jax.numpy.stack
        return self._strong(self._jax.tree.map(lambda leaf: stack([leaf] * count), first))

    def heuristic(self, words: Array, memory: Any, observation: Array) -> tuple[Any, Array]:
        """Return the next state and the actions (N,) of jaxmarl's heuristic policy.

        Args:
            words: (2,) uint32, the random key.
            memory: the policy's state, as returned by the last call.
            observation: (N, obs_dim).
        """
        action, memory = self._play(words, memory, observation)
        return memory, np.array(action, dtype=np.int64)

    @cached_property
    def _play(self) -> Any:
        jax = self._jax
        player = self._heuristics.create_heuristic_policy(self._env._env, 0)

        def play(words: Any, memory: Any, observation: Any) -> Any:
            keys = jax.random.split(self._key(words), self.spec.n_agents)
            return self._strong(jax.vmap(player)(keys, memory, observation))

        return jax.jit(play)

    def _key(self, words: Any) -> Any:
        return self._jax.random.wrap_key_data(words, impl="threefry2x32")

    def _strong(self, tree: Any) -> Any:
        """Return arrays without JAX's weak types, which would trigger a second compilation."""
        convert = self._jax.lax.convert_element_type
        return self._jax.tree.map(lambda leaf: convert(leaf, leaf.dtype), tree)

    def _begin(self, words: Any) -> tuple[Any, Shown]:
        observations, state = self._env.reset(self._key(words))
        return (words, state), self._show(observations, state, 0.0)

    def _go_on(self, battle: Any, action: Any) -> tuple[Any, Shown]:
        words, state = battle
        key = self._jax.random.fold_in(self._key(words), state.state.step + 1)
        actions = {name: action[i] for i, name in enumerate(self._env.agents)}
        observations, state, rewards, _, _ = self._env.step_env(key, state, actions)
        return (words, state), self._show(observations, state, rewards[self._env.agents[0]])

    def _show(self, observations: Any, state: Any, reward: Any) -> Shown:
        numpy, units = self._jax.numpy, state.state
        available = self._env.get_avail_actions(state)
        allies = units.unit_alive[: self.spec.n_agents].any()
        enemies = units.unit_alive[self.spec.n_agents :].any()
        return Shown(
            observation=numpy.stack([observations[name] for name in self._env.agents]),
            state=observations["world_state"][None],
            available_actions=numpy.stack([available[n] for n in self._env.agents]).astype(bool),
            reward=numpy.asarray(reward, dtype=numpy.float32),
            terminated=~(allies & enemies),
            truncated=allies & enemies & (units.step >= self.spec.episode_limit),
            win=allies & ~enemies,
            units=Units(
                position=units.unit_positions,
                health=units.unit_health,
                alive=units.unit_alive,
                kind=units.unit_types,
                cooldown=units.unit_weapon_cooldowns,
                target=units.prev_attack_actions,
            ),
        )

    def _compile(self) -> None:
        """Compile reset and step, and log the time it took."""
        jax, shape = self._jax, self._jax.ShapeDtypeStruct
        words = shape((WIDTH, 2), np.uint32)
        mask = shape((WIDTH,), np.bool_)
        action = shape((WIDTH, self.spec.n_agents), np.int32)
        self._battles, _ = jax.eval_shape(lambda w: self._strong(jax.vmap(self._begin)(w)), words)
        began = time.perf_counter()
        reset = self._masked(lambda battles, w: jax.vmap(self._begin)(w))
        self._reset = jax.jit(reset).lower(self._battles, words, mask).compile()
        between = time.perf_counter()
        step = self._masked(jax.vmap(self._go_on))
        self._step = jax.jit(step).lower(self._battles, action, mask).compile()
        _LOG.info(
            "smax %s: compiled reset in %.1f s, step in %.1f s",
            self.spec.scenario,
            between - began,
            time.perf_counter() - between,
        )

    def _masked(self, function: Any) -> Any:
        """Return `function` with a third argument, the mask of the battles to change."""
        where = self._jax.numpy.where

        def masked(battles: Any, other: Any, mask: Any) -> Any:
            def choose(new: Any, old: Any) -> Any:
                return where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            after, shown = self._strong(function(battles, other))
            return self._jax.tree.map(choose, after, battles), shown

        return masked


def engine(scenario: str, options: dict[str, Any] | None = None) -> Engine:
    """Return the engine of a scenario, which a process compiles only once.

    Raises:
        UserError: as `Engine`; options that are not plain values.
    """
    try:
        text = json.dumps(options or {}, sort_keys=True)
    except TypeError as error:
        raise UserError(f"env.options: expected plain values, {error}.") from error
    return _engine(scenario, text)


@lru_cache(maxsize=4)
def _engine(scenario: str, options: str) -> Engine:
    return Engine(scenario, json.loads(options))
