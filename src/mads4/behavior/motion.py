"""How robots move in an RWARE warehouse, and how long the way from anywhere to a target is.

A *pose* is a robot's cell and heading in one integer: ``4 * cell + heading`` with
``cell = y * width + x`` and headings counted clockwise (up, right, down, left). Turning by 90
degrees and driving one cell forward take one step each. An unloaded robot drives beneath shelves;
a loaded one only along highways, except into the empty slot that it is bound for.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import MultiAgentEnv
from mads4.errors import UserError

if TYPE_CHECKING:
    from rware.warehouse import Entity, Warehouse

WAIT, FORWARD, LEFT, RIGHT, TOGGLE = range(5)
"""RWARE's actions; ``TOGGLE`` lifts a shelf, or puts it down in a slot."""
UNREACHABLE = 1 << 20
"""Steps to a target that cannot be reached (larger than any true distance)."""
_STEP = ((0, -1), (1, 0), (0, 1), (-1, 0))
_ORDER = ((3, FORWARD), (1, LEFT), (2, RIGHT))
"""Position in `MotionTables.successors` and action, in the order in which ties are broken."""
_MAX_TABLE_ENTRIES = 1 << 24
"""Numbers kept in all tables of one kind before they are discarded and rebuilt."""
_MAX_LEGS = 1 << 15


def warehouse_of(env: MultiAgentEnv, expert: str) -> Warehouse:
    """Return the warehouse behind an environment.

    Args:
        env: the environment.
        expert: who wants to know, for the error message.

    Raises:
        UserError: an environment other than RWARE.
    """
    warehouse: Warehouse | None = getattr(env, "warehouse", None)
    if warehouse is None:
        raise UserError(
            f"{expert} knows RWARE warehouses only, not {type(env).__name__}; "
            "choose env=rware or another behavior."
        )
    return warehouse


@dataclass(frozen=True, eq=False)
class Leg:
    """One errand of a robot's route (fetch, deliver, put back …) and everything after it."""

    table: list[int]
    """Steps from each pose to the end of the whole route, less `offset`."""
    offset: int
    loaded: bool
    targets: frozenset[int]
    """Cells at which the errand is done."""
    toggles: bool
    """True if the errand ends with lifting or putting down; else by arriving."""
    following: Leg | None
    legs: tuple[Leg, ...] = field(init=False)
    """This leg and all that follow."""

    def __post_init__(self) -> None:
        after = self.following.legs if self.following is not None else ()
        object.__setattr__(self, "legs", (self, *after))

    def admits(self, cell: int, slot: bool) -> bool:
        """Return whether a robot on this leg may drive into `cell`, a shelf's place if `slot`."""
        return not (self.loaded and slot) or cell in self.targets

    def steps(self, pose: int) -> int:
        """Return the steps from `pose` to the end of the route when no robot is in the way."""
        return min(self.table[pose] + self.offset, UNREACHABLE)


class MotionTables:
    """Exact times of travel in one layout, computed when first asked for and then kept.

    Args:
        width: cells in a row.
        slots: one flag per cell, row by row: True where shelves stand, False on highways.
        goals: cells to which requested shelves are brought.
    """

    def __init__(self, width: int, slots: Sequence[bool], goals: Sequence[int]) -> None:
        self.width = width
        self.slots = tuple(bool(slot) for slot in slots)
        self.goals = tuple(goals)
        self.n_cells = len(self.slots)
        self.slot_cells = tuple(cell for cell, slot in enumerate(self.slots) if slot)
        self.n_poses = 4 * self.n_cells
        self.successors = tuple(self._successors(pose) for pose in range(self.n_poses))
        """For each pose those one step later: waiting, turning left, turning right and, unless
        there is a wall ahead, driving forward."""
        self._distances: dict[tuple[int, bool], npt.NDArray[np.int32]] = {}
        self._tables: dict[tuple[bool, tuple[tuple[int, int], ...]], list[int]] = {}
        self._legs: dict[tuple[object, ...], Leg] = {}
        self._parking: dict[int, tuple[int, ...]] = {}

    @staticmethod
    def of(warehouse: Warehouse) -> MotionTables:
        """Return the tables of a warehouse's layout, kept from one call to the next."""
        width = int(warehouse.grid_size[1])
        slots = tuple(flag == 0 for row in warehouse.highways.tolist() for flag in row)
        return _tables_of(width, slots, tuple(y * width + x for x, y in warehouse.goals))

    def cell(self, thing: Entity) -> int:
        """Return the cell of a robot or shelf."""
        return int(thing.y) * self.width + int(thing.x)

    def ahead(self, pose: int, leg: Leg) -> int | None:
        """Return the cell in front of a robot on `leg`, None if it may not drive there."""
        cell = self.successors[pose][-1] >> 2
        return cell if cell != pose >> 2 and leg.admits(cell, self.slots[cell]) else None

    def fetch(self, slot: int) -> Leg:
        """Return the route: drive unloaded to `slot`, lift its shelf, bring it to a goal."""
        return self._leg(("fetch", slot), False, (slot,), True, self.deliver())

    def deliver(self, following: Leg | None = None) -> Leg:
        """Return the route: bring the carried shelf to a goal, then go on as in `following`."""
        return self._leg(("deliver", following), True, self.goals, False, following)

    def put_back(self, slot: int, following: Leg | None = None) -> Leg:
        """Return the route: put the carried shelf down in `slot`, then go on with `following`."""
        return self._leg(("put", slot, following), True, (slot,), True, following)

    def park(self, cell: int) -> Leg:
        """Return the route: drive unloaded to `cell` and stay."""
        return self._leg(("park", cell), False, (cell,), False, None)

    def stay(self, loaded: bool) -> Leg:
        """Return the empty route of a robot that has nowhere to go."""
        key = ("stay", loaded)
        if key not in self._legs:
            self._legs[key] = Leg([0] * self.n_poses, 0, loaded, frozenset(), False, None)
        return self._legs[key]

    def parking_cells(self, count: int) -> tuple[int, ...]:
        """Return highway cells from which a shelf is near, on average, the best first.

        Each is the cell that most shortens the mean way from the nearest of those chosen so far
        to a slot (greedy k-median). There are fewer than `count` where highways are.
        """
        if count not in self._parking:
            self._parking[count] = self._choose_parking(count)
        return self._parking[count]

    def distances(self, target: int, loaded: bool) -> npt.NDArray[np.int32]:
        """Return the steps from every pose to the pose `target`, (n_poses,), by backward search."""
        if (target, loaded) not in self._distances:
            if len(self._distances) * self.n_poses > _MAX_TABLE_ENTRIES:
                self._distances.clear()
            self._distances[target, loaded] = self._backward_search(target, loaded)
        return self._distances[target, loaded]

    def _choose_parking(self, count: int) -> tuple[int, ...]:
        free = [c for c, slot in enumerate(self.slots) if not slot and c not in self.goals]
        ways = np.array([self._unloaded_ways(slot) for slot in self.slot_cells])
        nearest = np.full(len(self.slot_cells), float(UNREACHABLE))
        chosen: list[int] = []
        while len(chosen) < count and free:
            best = int(np.minimum(ways[:, free], nearest[:, None]).sum(axis=0).argmin())
            nearest = np.minimum(nearest, ways[:, free[best]])
            chosen.append(free.pop(best))
        return tuple(chosen)

    def _unloaded_ways(self, cell: int) -> npt.NDArray[np.float64]:
        """Return the steps from every cell to `cell`, averaged over headings, (n_cells,)."""
        way = np.min([self.distances(4 * cell + h, False) for h in range(4)], axis=0)
        return np.asarray(way.reshape(-1, 4).mean(axis=1), dtype=np.float64)

    def _leg(
        self,
        key: tuple[object, ...],
        loaded: bool,
        targets: tuple[int, ...],
        toggles: bool,
        following: Leg | None,
    ) -> Leg:
        leg = self._legs.get(key)
        if leg is not None:
            return leg
        ends = [4 * cell + heading for cell in targets for heading in range(4)]
        costs = [int(toggles) + (following.steps(p) if following is not None else 0) for p in ends]
        offset = min(costs)
        kept = tuple((p, c - offset) for p, c in zip(ends, costs, strict=True) if c < UNREACHABLE)
        leg = Leg(self._table(loaded, kept), offset, loaded, frozenset(targets), toggles, following)
        if len(self._legs) >= _MAX_LEGS:
            self._legs.clear()
        self._legs[key] = leg
        return leg

    def _table(self, loaded: bool, ends: tuple[tuple[int, int], ...]) -> list[int]:
        """Return min over (pose, cost) in `ends` of the steps to that pose plus its cost."""
        if not ends:
            return [UNREACHABLE] * self.n_poses
        key = (loaded, ends)
        if key not in self._tables:
            if len(self._tables) * self.n_poses > _MAX_TABLE_ENTRIES:
                self._tables.clear()
            ways = np.stack([self.distances(pose, loaded) + cost for pose, cost in ends])
            self._tables[key] = ways.min(axis=0).tolist()
        return self._tables[key]

    def _backward_search(self, target: int, loaded: bool) -> npt.NDArray[np.int32]:
        steps = [UNREACHABLE] * self.n_poses
        steps[target] = 0
        frontier = [target]
        distance = 0
        while frontier:
            distance += 1
            reached = []
            for pose in frontier:
                for before in self._predecessors(pose, loaded, target >> 2):
                    if steps[before] == UNREACHABLE:
                        steps[before] = distance
                        reached.append(before)
            frontier = reached
        return np.asarray(steps, dtype=np.int32)

    def _predecessors(self, pose: int, loaded: bool, target_cell: int) -> list[int]:
        cell, heading = divmod(pose, 4)
        before = [4 * cell + (heading + 1) % 4, 4 * cell + (heading - 1) % 4]
        if not loaded or not self.slots[cell] or cell == target_cell:
            behind = self._neighbor(cell, (heading + 2) % 4)
            if behind is not None:
                before.append(4 * behind + heading)
        return before

    def _successors(self, pose: int) -> tuple[int, ...]:
        cell, heading = divmod(pose, 4)
        still = (pose, 4 * cell + (heading - 1) % 4, 4 * cell + (heading + 1) % 4)
        ahead = self._neighbor(cell, heading)
        return still if ahead is None else (*still, 4 * ahead + heading)

    def _neighbor(self, cell: int, heading: int) -> int | None:
        y, x = divmod(cell, self.width)
        x, y = x + _STEP[heading][0], y + _STEP[heading][1]
        inside = 0 <= x < self.width and 0 <= y < self.n_cells // self.width
        return y * self.width + x if inside else None


@lru_cache(maxsize=8)
def _tables_of(width: int, slots: tuple[bool, ...], goals: tuple[int, ...]) -> MotionTables:
    return MotionTables(width, slots, goals)


@dataclass(frozen=True)
class Way:
    """The beginning of a way."""

    action: int
    cost: int
    """Actions to the way's end."""
    cells: tuple[int, ...]
    """Cells that it leads through, the present one not included; at least the next one."""


NOWHERE = Way(WAIT, UNREACHABLE, ())


def straight(motion: MotionTables, leg: Leg, pose: int, horizon: int) -> Way:
    """Return a cheapest way along `leg`, its next `horizon` cells at most."""
    cost = leg.steps(pose)
    if cost >= UNREACHABLE:
        return NOWHERE
    first: int | None = None
    cells: list[int] = []
    while pose >> 2 not in leg.targets and len(cells) < horizon:
        action, following = _descend(motion, leg, pose)
        first = action if first is None else first
        if action == FORWARD:
            cells.append(following >> 2)
        pose = following
    return Way(WAIT if first is None else first, cost, tuple(cells))


def around(
    motion: MotionTables, leg: Leg, pose: int, ends: Set[int], blocked: Set[int], limit: int
) -> Way:
    """Return a cheapest way to a cell of `ends` that avoids the cells `blocked`.

    Breadth-first; `NOWHERE` if there is none of at most `limit` actions. `leg` says what the
    robot may enter.
    """
    came: dict[int, tuple[int, int]] = {pose: (pose, WAIT)}
    frontier, cost = [pose], 0
    while frontier and cost <= limit:
        reached: list[int] = []
        for here in frontier:
            if here >> 2 in ends:
                return _trace(came, pose, here, cost)
            following = motion.successors[here]
            for position, action in _ORDER[4 - len(following) :]:
                there = following[position]
                if there in came:
                    continue
                cell = there >> 2
                if action == FORWARD and (
                    cell in blocked or not leg.admits(cell, motion.slots[cell])
                ):
                    continue
                came[there] = (here, action)
                reached.append(there)
        frontier, cost = reached, cost + 1
    return NOWHERE


def _descend(motion: MotionTables, leg: Leg, pose: int) -> tuple[int, int]:
    """Return the first action of a cheapest way along `leg`, and the pose after it."""
    following = motion.successors[pose]
    table, wanted = leg.table, leg.table[pose] - 1
    for position, action in _ORDER[4 - len(following) :]:
        there = following[position]
        if table[there] == wanted and (
            action != FORWARD or leg.admits(there >> 2, motion.slots[there >> 2])
        ):
            return action, there
    raise AssertionError("a pose that reaches the target has a neighbor nearer to it")


def _trace(came: dict[int, tuple[int, int]], start: int, end: int, cost: int) -> Way:
    cells: list[int] = []
    action = WAIT
    here = end
    while here != start:
        before, action = came[here]
        if action == FORWARD:
            cells.append(here >> 2)
        here = before
    return Way(action, cost, tuple(reversed(cells)))
