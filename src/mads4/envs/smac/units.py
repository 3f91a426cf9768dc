"""The units on a battlefield as arrays, and how they are read from the game's package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.envs.smac.maps import SmacMap
from mads4.types import BoolArray, FloatArray

MEDIVAC_MAP = "MMM"
"""Type of the maps on which some agents heal; they have energy where others have a cooldown."""


@dataclass(frozen=True)
class Units:
    """The U units of one side, in the order in which they are numbered."""

    position: FloatArray
    """(U, 2) x and y on the map; of the dead, where they fell."""
    health: FloatArray
    """(U,) what is left, as a share of the most; 0 for the dead."""
    shield: FloatArray | None
    """(U,) likewise; None if the side's race has none."""
    cooldown: FloatArray
    """(U,) time until the weapon fires again, a healer's energy, as a share of the most."""
    kind: npt.NDArray[np.int64]
    """(U,) index of the unit's type among those of the map."""

    @property
    def alive(self) -> BoolArray:
        """(U,)."""
        return np.asarray(self.health > 0)


@dataclass(frozen=True)
class Battlefield:
    """All that observations are made of, at one time step; N agents, A actions."""

    agents: Units
    enemies: Units
    available_actions: BoolArray
    """(N, A)."""
    last_action: FloatArray
    """(N, A) what each agent did one step earlier, one-hot; zeros at an episode's first step."""
    sight: FloatArray
    """(N,) how far each agent sees."""
    center: FloatArray
    """(2,) middle of the map."""
    extent: FloatArray
    """(2,) width and height of the part of the map where units can go."""
    unit_types: int
    """Kinds of unit told apart; 0 where there is only one."""

    @classmethod
    def blank(cls, game: SmacMap) -> Battlefield:
        """Return a battlefield of a map's sizes on which everybody is dead."""
        n = game.n_agents
        return cls(
            agents=_dead(n, game.agents_have_shields),
            enemies=_dead(game.n_enemies, game.enemies_have_shields),
            available_actions=np.zeros((n, game.n_actions), np.bool_),
            last_action=np.zeros((n, game.n_actions)),
            sight=np.full(n, 9.0),
            center=np.ones(2),
            extent=np.ones(2),
            unit_types=game.unit_types,
        )


def _dead(count: int, shields: bool) -> Units:
    nothing = np.zeros(count)
    shield = nothing if shields else None
    kind = np.zeros(count, np.int64)
    return Units(np.zeros((count, 2)), nothing, shield, nothing, kind)


def map_of(game: Any) -> SmacMap:
    """Return the sizes that a `StarCraft2Env` says it has, of maps unknown to us as well."""
    races = "".join("P" if shields else "T" for shields in _shields(game))
    return SmacMap(game.n_agents, game.n_enemies, game.episode_limit, races, game.unit_type_bits)


def read_battlefield(game: Any, available_actions: BoolArray) -> Battlefield:
    """Return the present of a `StarCraft2Env`; it must have been reset.

    Args:
        game: read through its attributes ``agents``, ``enemies``, ``last_action``, ``map_x`` … and
            its methods ``unit_max_cooldown``, ``unit_max_shield``, ``get_unit_type_id`` and
            ``unit_sight_range``.
        available_actions: (N, A), as it gave them.
    """
    agents_shielded, enemies_shielded = _shields(game)
    return Battlefield(
        agents=_read(game, _in_order(game.agents), True, agents_shielded),
        enemies=_read(game, _in_order(game.enemies), False, enemies_shielded),
        available_actions=available_actions,
        last_action=np.asarray(game.last_action, dtype=np.float64),
        sight=np.array([float(game.unit_sight_range(i)) for i in range(game.n_agents)]),
        center=np.array([game.map_x / 2, game.map_y / 2]),
        extent=np.array([game.max_distance_x, game.max_distance_y], dtype=np.float64),
        unit_types=game.unit_type_bits,
    )


def _shields(game: Any) -> tuple[bool, bool]:
    return game.shield_bits_ally > 0, game.shield_bits_enemy > 0


def _in_order(units: dict[int, Any]) -> list[Any]:
    return [units[number] for number in sorted(units)]


def _read(game: Any, units: Sequence[Any], ours: bool, shielded: bool) -> Units:
    return Units(
        position=np.array([(unit.pos.x, unit.pos.y) for unit in units], dtype=np.float64),
        health=np.array([unit.health / unit.health_max for unit in units]),
        shield=(
            np.array([unit.shield / game.unit_max_shield(unit) for unit in units])
            if shielded
            else None
        ),
        cooldown=np.array([_cooldown(game, unit) if ours else 0.0 for unit in units]),
        kind=np.array(
            [game.get_unit_type_id(unit, ours) if game.unit_type_bits else 0 for unit in units],
            dtype=np.int64,
        ),
    )


def _cooldown(game: Any, unit: Any) -> float:
    heals = game.map_type == MEDIVAC_MAP and unit.unit_type == game.medivac_id
    left = unit.energy if heals else unit.weapon_cooldown
    return float(left / game.unit_max_cooldown(unit))
