"""SMAX compiled: a few battles at a time begin, or go on by one step, in one call.

All computation is done for `WIDTH` battles, whether one is played or hundreds (then in several
calls): XLA compiles products and sums differently for different numbers of rows, and rounding in
the last digit grows to another outcome. One program for all gives an episode the same bits alone
and among others, wherever it stands among them. Eight cost hardly more than one does.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import time
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mads4.envs.smax.runtime import import_jax, keep_programs
from mads4.envs.smax.scenarios import REWARD, require_known
from mads4.errors import UserError
from mads4.types import EnvSpec, IntArray

_LOG = logging.getLogger(__name__)

WIDTH = 8
"""Battles in one call."""

Array = npt.NDArray[Any]


class Shown(NamedTuple):
    """What is known of battles after a step; all arrays begin with an axis of battles.

    U units are the N allies, then the enemies.
    """

    observation: Array
    """(N, obs_dim) float32."""
    state: Array
    """(1, state_dim) float32."""
    available_actions: Array
    """(N, n_actions) bool."""
    reward: Array
    """() float32, of the team."""
    terminated: Array
    """() bool: a side is dead."""
    truncated: Array
    """() bool: both live at the time limit."""
    win: Array
    """() bool: the enemies are dead, and not all allies."""
    position: Array
    """(U, 2) float32, x and y."""
    health: Array
    """(U,) float32."""
    alive: Array
    """(U,) bool."""
    kind: Array
    """(U,) uint8, an index of `Rules`' arrays."""
    cooldown: Array
    """(U,) float32, seconds until the unit can shoot again; not positive: now."""
    target: Array
    """(U,) int32, the last action if it was an attack, else 0."""


class Rules(NamedTuple):
    """What kinds of unit can do, each array (kinds,), and the ground."""

    names: tuple[str, ...]
    health: Array
    reach: Array
    """Distance from which a unit hits."""
    radius: Array
    size: tuple[float, float]
    """Width and height of the ground; its edge kills."""
    step_seconds: float


class Engine:
    """One scenario's battles as compiled functions of plain arrays.

    Args:
        scenario: one of `mads4.envs.smax.scenarios.SCENARIOS`.
        options: further keyword arguments of jaxmarl's ``HeuristicEnemySMAX``.

    Raises:
        UserError: jaxmarl is missing, or it refuses an option.
    """

    def __init__(self, scenario: str, options: dict[str, Any]) -> None:
        require_known(scenario, options)
        self._jax, smax, self._heuristics = import_jax()
        keep_programs(self._jax)
        try:
            self._env = smax.HeuristicEnemySMAX(
                scenario=smax.map_name_to_scenario(scenario), **options
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"env.options: SMAX refuses {options}: {error}") from error
        game = self._env._env
        versions = (f"{name} {importlib.metadata.version(name)}" for name in ("jaxmarl", "jax"))
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
            names=tuple(game.unit_type_names),
            health=np.array(game.unit_type_health),
            reach=np.array(game.unit_type_attack_ranges),
            radius=np.array(game.unit_type_radiuses),
            size=(float(game.map_width), float(game.map_height)),
            step_seconds=game.world_steps_per_env_step * game.time_per_step,
        )

    def blank(self) -> Any:
        """Return `WIDTH` battles that have yet to begin; compile what they need, the first time."""
        if not hasattr(self, "_battles"):
            self._compile()
        numpy = self._jax.numpy
        return self._jax.tree.map(lambda leaf: numpy.zeros(leaf.shape, leaf.dtype), self._battles)

    def reset(self, battles: Any, seed: IntArray, mask: Array) -> tuple[Any, Shown]:
        """Begin those battles where `mask` (WIDTH,) is True; the rest of what is shown is void.

        Args:
            battles: as returned last; not changed.
            seed: (WIDTH,) int64, not negative.
            mask: (WIDTH,) bool.
        """
        words = np.stack([seed >> 32, seed & 0xFFFFFFFF], axis=-1).astype(np.uint32)
        done: tuple[Any, Shown] = self._reset(battles, words, mask)
        return done

    def step(self, battles: Any, action: IntArray, mask: Array) -> tuple[Any, Shown]:
        """Let those battles where `mask` (WIDTH,) is True go on with ``action`` (WIDTH, N)."""
        done: tuple[Any, Shown] = self._step(battles, action.astype(np.int32), mask)
        return done

    def heuristic_memory(self) -> Any:
        """Return what jaxmarl's own player remembers before a battle."""
        first = self._heuristics.get_heuristic_policy_initial_state()
        return self._strong(
            self._jax.tree.map(
                lambda leaf: self._jax.numpy.stack([leaf] * self.spec.n_agents), first
            )
        )

    def heuristic(self, words: Array, memory: Any, observation: Array) -> tuple[Any, Array]:
        """Return the actions (N,) of jaxmarl's own player, and what it remembers.

        Args:
            words: (2,) uint32, all that is random about them.
            memory: as returned last.
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
        """Return arrays whose types are their own: "weak" ones would compile a second time."""
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
            position=units.unit_positions,
            health=units.unit_health,
            alive=units.unit_alive,
            kind=units.unit_types,
            cooldown=units.unit_weapon_cooldowns,
            target=units.prev_attack_actions,
        )

    def _compile(self) -> None:
        """Compile both functions, once for all, and say how long it took."""
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
            "smax %s is warm: reset compiled in %.1f s, step in %.1f s",
            self.spec.scenario,
            between - began,
            time.perf_counter() - between,
        )

    def _masked(self, function: Any) -> Any:
        """Return `function` of battles and something else, for those battles that a mask tells."""
        where = self._jax.numpy.where

        def masked(battles: Any, other: Any, mask: Any) -> Any:
            def choose(new: Any, old: Any) -> Any:
                return where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            after, shown = self._strong(function(battles, other))
            return self._jax.tree.map(choose, after, battles), shown

        return masked


def engine(scenario: str, options: dict[str, Any] | None = None) -> Engine:
    """Return the engine of a scenario; a process compiles each only once.

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
