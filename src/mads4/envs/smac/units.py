"""The units on a battlefield as arrays, read from SMAC's environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.envs.smac.maps import SmacMap
from mads4.types import BoolArray, FloatArray

MEDIVAC_MAP = "MMM"
"""SMAC's `map_type` with healers, whose energy takes the place of a cooldown."""


@dataclass(frozen=True)
class Units:
    """The U units of one side, in order of their index."""

    position: FloatArray
    """(U, 2) x and y on the map; for dead units, where they died."""
    health: FloatArray
    """(U,) share of the maximum; 0 for dead units."""
    shield: FloatArray | None
    """(U,) share of the maximum; None if the side's race has no shields."""
    cooldown: FloatArray
    """(U,) time until the weapon can fire, or a healer's energy, as a share of the maximum."""
    kind: npt.NDArray[np.int64]
    """(U,) index of the unit's type among the types on the map."""

    @property
    def alive(self) -> BoolArray:
        """(U,) bool."""
        return np.asarray(self.health > 0)


@dataclass(frozen=True)
class Battlefield:
    """Everything that observations depend on, at one time step; N agents, A actions."""

    agents: Units
    enemies: Units
    available_actions: BoolArray
    """(N, A) bool."""
    last_action: FloatArray
    """(N, A) each agent's previous action, one-hot; zeros at the first step of an episode."""
    sight: FloatArray
    """(N,) sight ranges."""
    center: FloatArray
    """(2,) center of the map."""
    extent: FloatArray
    """(2,) width and height of the playable part of the map."""
    unit_types: int
    """Number of unit types that features distinguish; 0 if there is only one."""

    @classmethod
    def blank(cls, game: SmacMap) -> Battlefield:
        """Return a battlefield of a map's sizes on which all units are dead."""

        def dead(count: int, shields: bool) -> Units:
            zeros = np.zeros(count)
            shield = zeros if shields else None
            return Units(np.zeros((count, 2)), zeros, shield, zeros, np.zeros(count, np.int64))

        n = game.n_agents
        return cls(
            agents=dead(n, game.agents_have_shields),
            enemies=dead(game.n_enemies, game.enemies_have_shields),
            available_actions=np.zeros((n, game.n_actions), np.bool_),
            last_action=np.zeros((n, game.n_actions)),
            sight=np.full(n, 9.0),
            center=np.ones(2),
            extent=np.ones(2),
            unit_types=game.unit_types,
        )


def map_of(game: Any) -> SmacMap:
    """Return the sizes that a `StarCraft2Env` reports, which may have maps not in `MAPS`."""
    races = "".join("P" if shields else "T" for shields in _shields(game))
    return SmacMap(game.n_agents, game.n_enemies, game.episode_limit, races, game.unit_type_bits)


def read_battlefield(game: Any, available_actions: BoolArray) -> Battlefield:
    """Return the present battlefield of a `StarCraft2Env`, which must have been reset.

    Args:
        game: read through its attributes ``agents``, ``enemies``, ``last_action``, ``map_x`` … and
            its methods ``unit_max_cooldown``, ``unit_max_shield``, ``get_unit_type_id`` and
            ``unit_sight_range``.
        available_actions: (N, A) bool, as returned by the game.
    """
    agents_shielded, enemies_shielded = _shields(game)
    return Battlefield(
        agents=_read(game, game.agents, True, agents_shielded),
        enemies=_read(game, game.enemies, False, enemies_shielded),
        available_actions=available_actions,
        last_action=np.asarray(game.last_action, dtype=np.float64),
        sight=np.array([float(game.unit_sight_range(i)) for i in range(game.n_agents)]),
        center=np.array([game.map_x / 2, game.map_y / 2]),
        extent=np.array([game.max_distance_x, game.max_distance_y], dtype=np.float64),
        unit_types=game.unit_type_bits,
    )


def _shields(game: Any) -> tuple[bool, bool]:
    return game.shield_bits_ally > 0, game.shield_bits_enemy > 0


def _read(game: Any, numbered: dict[int, Any], ours: bool, shielded: bool) -> Units:
    units = [numbered[number] for number in sorted(numbered)]
    shield = [unit.shield / game.unit_max_shield(unit) for unit in units] if shielded else None
    types = [game.get_unit_type_id(unit, ours) if game.unit_type_bits else 0 for unit in units]
    return Units(
        position=np.array([(unit.pos.x, unit.pos.y) for unit in units], dtype=np.float64),
        health=np.array([unit.health / unit.health_max for unit in units]),
        shield=None if shield is None else np.array(shield),
        cooldown=np.array([_cooldown(game, unit) if ours else 0.0 for unit in units]),
        kind=np.array(types, dtype=np.int64),
    )


def _cooldown(game: Any, unit: Any) -> float:
    heals = game.map_type == MEDIVAC_MAP and unit.unit_type == game.medivac_id
    left = unit.energy if heals else unit.weapon_cooldown
    return float(left / game.unit_max_cooldown(unit))
