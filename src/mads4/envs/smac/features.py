"""What agents see, as numbers: SMAC's own features and those of MAPPO's StarCraft wrapper.

Both are made of the same blocks; the wrapper (Yu et al. 2022), with which the data of MADT (Meng et
al. 2022) were recorded, has more in each. N agents, M enemies, A actions; ``[s]`` is there where
the side's race has shields, ``[k]`` is one-hot over the kinds of unit where the map has several.
Positions *relative* to an agent are divided by its sight range, those on the *map* are measured
from its center and divided by its extent. Whoever is dead, or out of sight where it says so, has
zeros. The order was read off the public code of both and the sizes agree on all maps.

Local observation of SMAC, for each agent:

======== ============================================================================
move     4: whether it can go north, south, east, west
enemies  M × (can be attacked, distance, relative x, y, health, [s], [k]), in sight
others   N - 1 × (1 if in sight, distance, relative x, y, health, [s], [k]), in sight
itself   health, [s], [k]
======== ============================================================================

State of SMAC, one for all: N × (health, cooldown, map x, y, [s], [k]), M × (health, map x, y, [s],
[k]), N × the last action (A).

Local observation of the wrapper:

======== ============================================================================
others   as above, and the last action (A) of each
enemies  as above
move     as above
itself   1, 0, 0, 0 (in sight of itself, at no distance), health, [s], [k], last action
number   N: which agent it is, one-hot; also of the dead
======== ============================================================================

State of the wrapper, for each agent, out of sight as well:

======== ============================================================================
others   N - 1 × (1 if in sight, distance, relative x, y, cooldown, health, [s], map x, y, [k],
         last action)
enemies  M × (can be attacked, distance, relative x, y, 1 if in sight, health, [s], [k], map x, y)
move     as above
itself   1, 0, 0, 0, health, [s], map x, y, [k], last action
number   N: which agent it is, one-hot; also of the dead
======== ============================================================================

The state of a dead agent is zero but for its number.
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
    """A way to write a battlefield as observations and states."""

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
    """Return what SMAC's agents see, (N, obs_dim)."""
    itself = _condition(field.agents, field.unit_types)
    blocks = [_moves(field), _enemies_in_sight(field), _others_in_sight(field), *itself]
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
    """Return what agents see through MAPPO's wrapper, (N, obs_dim)."""
    others = _others_in_sight(field, field.last_action)
    itself = [_here(field), *_condition(field.agents, field.unit_types), field.last_action]
    blocks = [others, _enemies_in_sight(field), _moves(field), *itself]
    return _numbered(_rows(blocks, field.agents.alive))


def mappo_state(field: Battlefield) -> Features:
    """Return each agent's view of the state in MAPPO's wrapper, (N, state_dim)."""
    agents, enemies = field.agents, field.enemies
    sight, relative = _relation(field, agents)
    health, *rest = _condition(agents, field.unit_types)
    kinds = rest[len(rest) - bool(field.unit_types) :]
    shield = rest[: len(rest) - len(kinds)]
    known = [health, *shield, _on_map(field, agents), *kinds, field.last_action]
    cooldown = agents.cooldown[:, None]
    others = _per_agent([sight, relative], [cooldown, *known]) * agents.alive[:, None]
    sight, relative = _relation(field, enemies)
    condition = _condition(enemies, field.unit_types)
    shown = (
        _per_agent([_targets(field), relative, sight], [*condition, _on_map(field, enemies)])
        * enemies.alive[:, None]
    )
    blocks = [_without_itself(others), shown, _moves(field), _here(field), *known]
    return _numbered(_rows(blocks, agents.alive))


BUILDERS: Mapping[str, Builder] = {
    "smac": Builder(smac_observation, smac_state, state_per_agent=False),
    "mappo": Builder(mappo_observation, mappo_state, state_per_agent=True),
}
"""Name in the configuration → builder."""


def _others_in_sight(field: Battlefield, *more: FloatArray) -> FloatArray:
    """Return (N, N - 1, ·) features of the other agents, and `more` (N, ·) of each."""
    sight, relative = _relation(field, field.agents)
    known = [*_condition(field.agents, field.unit_types), *more]
    return _without_itself(_per_agent([sight, relative], known) * sight)


def _enemies_in_sight(field: Battlefield) -> FloatArray:
    """Return (N, M, ·) features of the enemies."""
    sight, relative = _relation(field, field.enemies)
    known = _condition(field.enemies, field.unit_types)
    return _per_agent([_targets(field), relative], known) * sight


def _relation(field: Battlefield, units: Units) -> tuple[FloatArray, FloatArray]:
    """Return how N agents see U living units: (N, U, 1) in sight or not; (N, U, 3) where."""
    sight = field.sight[:, None]
    offset = units.position[None] - field.agents.position[:, None]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    relative = np.concatenate([distance[..., None], offset], axis=-1) / sight[..., None]
    in_sight = (distance < sight) & units.alive
    return in_sight[..., None].astype(np.float64), relative


def _condition(units: Units, unit_types: int) -> list[FloatArray]:
    """Return health (U, 1), shield (U, 1) if there are any, kind (U, k) if there are several."""
    blocks = [units.health[:, None]]
    if units.shield is not None:
        blocks.append(units.shield[:, None])
    if unit_types:
        blocks.append(np.eye(unit_types)[units.kind])
    return blocks


def _on_map(field: Battlefield, units: Units) -> FloatArray:
    """Return (U, 2) positions on the map."""
    return np.asarray((units.position - field.center) / field.extent)


def _moves(field: Battlefield) -> FloatArray:
    """Return (N, 4)."""
    return field.available_actions[:, _MOVES].astype(np.float64)


def _targets(field: Battlefield) -> FloatArray:
    """Return (N, M, 1), 1 where an agent can attack an enemy."""
    return field.available_actions[:, OTHER_ACTIONS:, None].astype(np.float64)


def _here(field: Battlefield) -> FloatArray:
    """Return (N, 4): an agent is in sight of itself, at no distance."""
    return np.tile([1.0, 0.0, 0.0, 0.0], (len(field.sight), 1))


def _per_agent(seen: Sequence[FloatArray], known: Sequence[FloatArray]) -> FloatArray:
    """Join (N, U, ·) features that depend on who looks with (U, ·) that do not."""
    count = len(seen[0])
    repeated = [np.broadcast_to(block, (count, *block.shape)) for block in known]
    return np.concatenate([*seen, *repeated], axis=-1)


def _without_itself(features: FloatArray) -> FloatArray:
    """Return (N, N - 1, ·) of (N, N, ·): each agent's features of the others, in their order."""
    count = len(features)
    others = features[~np.eye(count, dtype=np.bool_)]
    return others.reshape(count, count - 1, features.shape[-1])


def _rows(blocks: Sequence[FloatArray], alive: BoolArray) -> FloatArray:
    """Return blocks (R, …) side by side, (R, ·), with zeros for the dead."""
    flat = [block.reshape(len(alive), int(np.prod(block.shape[1:]))) for block in blocks]
    return np.where(alive[:, None], np.concatenate(flat, axis=1), 0.0).astype(np.float32)


def _numbered(rows: FloatArray) -> Features:
    """Append to each agent's row which agent it is."""
    return np.concatenate([rows, np.eye(len(rows))], axis=1).astype(np.float32)
