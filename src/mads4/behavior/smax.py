"""Behavior policies for SMAX: focus fire with kiting, and the simulator's own heuristic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mads4.behavior.registry import register
from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.envs.smax.engine import STOP
from mads4.errors import UserError
from mads4.types import IntArray, TimeStep

if TYPE_CHECKING:
    from mads4.envs.smax.battle import SmaxEnv

FloatArray = npt.NDArray[np.float64]
COMPASS = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
"""Where actions 0 to 3 lead: north, east, south, west."""
MELEE = 2.5
"""Units with a shorter reach have to touch what they hit, and are run away from."""
KEEP_OFF = 0.5
"""How far beyond its reach a melee enemy is kept while the weapon is not ready."""
MARGIN = 2.5
"""No unit runs nearer than this to the edge of the ground, which kills."""


@register("focus_fire")
class FocusFire(BehaviorPolicy):
    """All attack the enemy that dies soonest; ranged units retreat from melee units (kiting).

    Every decision follows from where units are and how they are, and there is no memory, so that a
    policy that sees the state can learn it. It knows all units, the agents only those in sight.
    """

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode.

        Raises:
            UserError: an environment other than SMAX.
        """
        self._env = _battle(env, "focus_fire")
        self._rules = self._env.rules

    def act(self, now: TimeStep) -> IntArray:
        """Return the actions (N,)."""
        units, rules = self._env.units, self._rules
        n = rules.n_allies
        places = units.position.astype(np.float64)
        away = places[n:] - places[:n, None]  # (N, M, 2) from each ally to each enemy
        distance = np.linalg.norm(away, axis=-1)
        living = units.alive[n:]
        reach = rules.reach[units.kind]
        can = now.available_actions[:, STOP + 1 :]
        target = _targets(can, distance, living, units.health[n:])
        actions = np.full(n, STOP, dtype=np.int64)
        for ally in map(int, np.flatnonzero(units.alive[:n])):
            chosen = int(target[ally])
            step = self._step(places[ally], away[ally], distance[ally], living, reach, ally, n)
            ready = units.cooldown[ally] < rules.step_seconds
            if step is not None and not ready:
                actions[ally] = step
            elif can[ally, chosen]:
                actions[ally] = STOP + 1 + chosen
            else:
                actions[ally] = _towards(away[ally, chosen])
        return actions

    def _step(
        self,
        place: FloatArray,
        away: FloatArray,
        distance: FloatArray,
        living: npt.NDArray[np.bool_],
        reach: npt.NDArray[np.float32],
        ally: int,
        n: int,
    ) -> int | None:
        """Return the move by which a shooter gets away from melee enemies; None if it need not."""
        danger = living & (reach[n:] < MELEE) & (distance < reach[n:] + KEEP_OFF)
        if reach[ally] < MELEE or not danger.any():
            return None
        push = -(away[danger] / np.maximum(distance[danger], 0.1)[:, None] ** 2).sum(axis=0)
        ends = place + 2.0 * COMPASS
        inside = ((ends > MARGIN) & (ends < np.array(self._rules.size) - MARGIN)).all(axis=1)
        return int(np.argmax(np.where(inside, COMPASS @ push, -np.inf)))


@register("heuristic")
class BuiltIn(BehaviorPolicy):
    """jaxmarl's own heuristic, which also plays the enemies: the nearest enemy, until it is dead.

    It sees what the agents see.
    """

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode.

        Raises:
            UserError: an environment other than SMAX.
        """
        self._player = _battle(env, "heuristic").player()
        self._rng = rng

    def act(self, now: TimeStep) -> IntArray:
        """Return the actions (N,)."""
        words = self._rng.integers(2**32, size=2, dtype=np.uint32)
        chosen = self._player(words, now.observation)
        able = np.take_along_axis(now.available_actions, chosen[:, None], axis=1)[:, 0]
        return np.where(able, chosen, STOP)


def _targets(
    can: npt.NDArray[np.bool_],
    distance: FloatArray,
    living: npt.NDArray[np.bool_],
    health: npt.NDArray[np.float32],
) -> IntArray:
    """Return whom each ally (N,) attacks: the weakest within reach, else the nearest.

    Among equally weak ones the one that most allies can reach, then the nearest to all.
    """
    common = health - 4.0 * can.sum(axis=0) + 0.5 * distance.mean(axis=0)
    within = np.where(can & living, common, np.inf)
    near = np.where(living, distance, np.inf)
    chosen: IntArray = np.where(can.any(axis=1), within.argmin(axis=1), near.argmin(axis=1))
    return chosen


def _towards(way: FloatArray) -> int:
    """Return the move that leads best along `way` (2,)."""
    return int(np.argmax(COMPASS @ way))


def _battle(env: MultiAgentEnv, name: str) -> SmaxEnv:
    """Return `env` as what it has to be."""
    if env.spec.name != "smax":
        raise UserError(
            f"dataset.behavior_policy={name} plays SMAX only, not {env.spec.name}; "
            "choose env=smax or another behavior policy."
        )
    battle: Any = env
    checked: SmaxEnv = battle
    return checked
