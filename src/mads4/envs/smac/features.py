"""Observations and states of StarCraft battles: SMAC's own features and those of MAPPO.

Both consist of the same blocks. MAPPO's StarCraft wrapper (Yu et al. 2022), with which MADT's data
(Meng et al. 2022) were recorded, has more features per block. N agents, M enemies, A actions;
``[s]`` exists if the side's race has shields, ``[k]`` is the one-hot unit type and exists on maps
with several types. *Relative* positions and distances are divided by the agent's sight range, *map*
positions are measured from the map's center and divided by its extent. Features of dead units, and
of units out of sight where noted, are zero. The order follows the public code of both; the sizes
agree on all maps.

SMAC's observation of each agent:

======== ============================================================================
move     4: whether it can move north, south, east, west
enemies  M × (attackable, distance, relative x, y, health, [s], [k]), in sight
allies   N - 1 × (1 if in sight, distance, relative x, y, health, [s], [k]), in sight
own      health, [s], [k]
======== ============================================================================

SMAC's state, shared: N × (health, cooldown, map x, y, [s], [k]), M × (health, map x, y, [s], [k]),
N × last action (A).

MAPPO's observation of each agent:

======== ============================================================================
allies   as above, and the last action (A) of each
enemies  as above
move     as above
own      1, 0, 0, 0 (in sight of itself, at no distance), health, [s], [k], last action
id       N: the agent's index, one-hot; also of dead agents
======== ============================================================================

MAPPO's state of each agent, including units out of sight:

======== ============================================================================
allies   N - 1 × (1 if in sight, distance, relative x, y, cooldown, health, [s], map x, y, [k],
         last action)
enemies  M × (attackable, distance, relative x, y, 1 if in sight, health, [s], [k], map x, y)
move     as above
own      1, 0, 0, 0, health, [s], map x, y, [k], last action
id       N: the agent's index, one-hot; also of dead agents
======== ============================================================================

A dead agent's state is zero but for its index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mads4.envs.smac.maps import OTHER_ACTIONS, SmacMap
from mads4.envs.smac.units import Battlefield, Units
from mads4.types import BoolArray, FloatArray

Features = npt.NDArray[np.float32]
_MOVES = slice(2, OTHER_ACTIONS)


@dataclass(frozen=True)
class Builder:
    """A pair of functions that encode a battlefield as observations and states."""

    observation: Callable[[Battlefield], Features]
    """→ (N, obs_dim)."""
    state: Callable[[Battlefield], Features]
    """→ (N or 1, state_dim)."""
    state_per_agent: bool

    def sizes(self, game: SmacMap) -> tuple[int, int]:
        """Return obs_dim and state_dim on a map."""
        blank = Battlefield.blank(game)
        return self.observation(blank).shape[-1], self.state(blank).shape[-1]


def smac_observation(field: Battlefield) -> Features:
    """Return SMAC's observations, (N, obs_dim)."""
    own = _condition(field.agents, field.unit_types)
    blocks = [_moves(field), _enemies_in_sight(field), _allies_in_sight(field), *own]
    return _rows(blocks, field.agents.alive)


def smac_state(field: Battlefield) -> Features:
    """Return SMAC's global state, (1, state_dim)."""
    agents, enemies = field.agents, field.enemies
    health, *rest = _condition(agents, field.unit_types)
    ours = [health, agents.cooldown[:, None], _on_map(field, agents), *rest]
    health, *rest = _condition(enemies, field.unit_types)
    theirs = [health, _on_map(field, enemies), *rest]
    parts = [_rows(ours, agents.alive), _rows(theirs, enemies.alive), field.last_action]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)[None]


def mappo_observation(field: Battlefield) -> Features:
    """Return the observations of MAPPO's wrapper, (N, obs_dim)."""
    allies = _allies_in_sight(field, field.last_action)
    own = [_here(field), *_condition(field.agents, field.unit_types), field.last_action]
    blocks = [allies, _enemies_in_sight(field), _moves(field), *own]
    return _with_id(_rows(blocks, field.agents.alive))


def mappo_state(field: Battlefield) -> Features:
    """Return the agent-specific states of MAPPO's wrapper, (N, state_dim)."""
    agents, enemies = field.agents, field.enemies
    sight, relative = _relation(field, agents)
    health, *rest = _condition(agents, field.unit_types)
    kinds = rest[len(rest) - bool(field.unit_types) :]
    shield = rest[: len(rest) - len(kinds)]
    known = [health, *shield, _on_map(field, agents), *kinds, field.last_action]
    cooldown = agents.cooldown[:, None]
    allies = _per_agent([sight, relative], [cooldown, *known]) * agents.alive[:, None]
    sight, relative = _relation(field, enemies)
    condition = _condition(enemies, field.unit_types)
    shown = (
        _per_agent([_targets(field), relative, sight], [*condition, _on_map(field, enemies)])
        * enemies.alive[:, None]
    )
    blocks = [_without_self(allies), shown, _moves(field), _here(field), *known]
    return _with_id(_rows(blocks, agents.alive))


BUILDERS: Mapping[str, Builder] = {
    "smac": Builder(smac_observation, smac_state, state_per_agent=False),
    "mappo": Builder(mappo_observation, mappo_state, state_per_agent=True),
}
"""Value of `env.observation` → builder."""


def _allies_in_sight(field: Battlefield, *more: FloatArray) -> FloatArray:
    """Return (N, N - 1, ·) features of the other agents, with `more` (N, ·) of each."""
    sight, relative = _relation(field, field.agents)
    known = [*_condition(field.agents, field.unit_types), *more]
    return _without_self(_per_agent([sight, relative], known) * sight)


def _enemies_in_sight(field: Battlefield) -> FloatArray:
    """Return (N, M, ·) features of the enemies."""
    sight, relative = _relation(field, field.enemies)
    known = _condition(field.enemies, field.unit_types)
    return _per_agent([_targets(field), relative], known) * sight


def _relation(field: Battlefield, units: Units) -> tuple[FloatArray, FloatArray]:
    """Return which units are in sight, (N, U, 1), and distance, relative x, y, (N, U, 3)."""
    sight = field.sight[:, None]
    offset = units.position[None] - field.agents.position[:, None]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    relative = np.concatenate([distance[..., None], offset], axis=-1) / sight[..., None]
    in_sight = (distance < sight) & units.alive
    return in_sight[..., None].astype(np.float64), relative


def _condition(units: Units, unit_types: int) -> list[FloatArray]:
    """Return health (U, 1), shield (U, 1) if any, and one-hot type (U, k) if several."""
    blocks = [units.health[:, None]]
    if units.shield is not None:
        blocks.append(units.shield[:, None])
    if unit_types:
        blocks.append(np.eye(unit_types)[units.kind])
    return blocks


def _on_map(field: Battlefield, units: Units) -> FloatArray:
    """Return (U, 2) map positions."""
    return np.asarray((units.position - field.center) / field.extent)


def _moves(field: Battlefield) -> FloatArray:
    """Return (N, 4), 1 for each direction in which an agent can move."""
    return field.available_actions[:, _MOVES].astype(np.float64)


def _targets(field: Battlefield) -> FloatArray:
    """Return (N, M, 1), 1 where an agent can attack an enemy."""
    return field.available_actions[:, OTHER_ACTIONS:, None].astype(np.float64)


def _here(field: Battlefield) -> FloatArray:
    """Return (N, 4), an agent's relation to itself: in sight, at no distance."""
    return np.tile([1.0, 0.0, 0.0, 0.0], (len(field.sight), 1))


def _per_agent(seen: Sequence[FloatArray], known: Sequence[FloatArray]) -> FloatArray:
    """Join (N, U, ·) features that depend on the observer with (U, ·) that do not."""
    count = len(seen[0])
    repeated = [np.broadcast_to(block, (count, *block.shape)) for block in known]
    return np.concatenate([*seen, *repeated], axis=-1)


def _without_self(features: FloatArray) -> FloatArray:
    """Return (N, N - 1, ·) of (N, N, ·): without each agent's features of itself."""
    count = len(features)
    allies = features[~np.eye(count, dtype=np.bool_)]
    return allies.reshape(count, count - 1, features.shape[-1])


def _rows(blocks: Sequence[FloatArray], alive: BoolArray) -> FloatArray:
    """Concatenate blocks (R, …) to (R, ·), with zeros in the rows of dead units."""
    flat = [block.reshape(len(alive), int(np.prod(block.shape[1:]))) for block in blocks]
    return np.where(alive[:, None], np.concatenate(flat, axis=1), 0.0).astype(np.float32)


def _with_id(rows: FloatArray) -> Features:
    """Append each agent's one-hot index to its row."""
    return np.concatenate([rows, np.eye(len(rows))], axis=1).astype(np.float32)
