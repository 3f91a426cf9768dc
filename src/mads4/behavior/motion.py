"""Robot motion in an RWARE warehouse, and exact travel times from every pose to a target.

A *pose* is a robot's cell and heading in one integer: ``4 * cell + heading`` with
``cell = y * width + x`` and headings counted clockwise (up, right, down, left). Turning by 90
degrees and driving one cell forward take one step each. An unloaded robot drives beneath shelves;
a loaded one only along highways, except into the empty slot that it is bound for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.envs.rware_state import CLOCKWISE
from mads4.errors import UserError

if TYPE_CHECKING:
    from rware.warehouse import Entity, Warehouse

WAIT, FORWARD, LEFT, RIGHT, TOGGLE = range(5)
"""RWARE's actions; ``TOGGLE`` lifts a shelf, or puts it down in a slot."""
UNREACHABLE = 1 << 20
"""Steps to a target that cannot be reached (larger than any true distance)."""
_STEP = ((0, -1), (1, 0), (0, 1), (-1, 0))
_MAX_TABLE_ENTRIES = 1 << 24
"""Numbers kept in all tables of one kind before they are discarded and rebuilt."""
_MAX_LEGS = 1 << 15


@dataclass(frozen=True, eq=False)
class Leg:
    """One leg of a robot's route (fetch, deliver, put back …) and the legs after it."""

    table: list[int]
    """Steps from each pose to the end of the whole route, less `offset`."""
    offset: int
    loaded: bool
    targets: frozenset[int]
    """Cells at which the leg ends."""
    toggles: bool
    """True if the leg ends with lifting or putting down; else by arriving."""
    following: Leg | None = None
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
    """Exact times of travel in one layout, computed at first use and cached.

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
        self._predecessors: list[list[int]] = [[] for _ in range(self.n_poses)]
        for before, following in enumerate(self.successors):
            for pose in following[1:]:
                self._predecessors[pose].append(before)
        tables = _MAX_TABLE_ENTRIES // self.n_poses
        self.distances = lru_cache(tables)(self._distances)
        self.parking_cells = lru_cache(self._parking_cells)
        self._table = lru_cache(tables)(self._make_table)
        self._leg = lru_cache(_MAX_LEGS)(self._make_leg)
        self._stay = [
            Leg([0] * self.n_poses, 0, load, frozenset(), False) for load in (False, True)
        ]

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
        return self._leg(False, (slot,), True, self.deliver())

    def deliver(self, following: Leg | None = None) -> Leg:
        """Return the route: bring the carried shelf to a goal, then go on as in `following`."""
        return self._leg(True, self.goals, False, following)

    def put_back(self, slot: int, following: Leg | None = None) -> Leg:
        """Return the route: put the carried shelf down in `slot`, then go on with `following`."""
        return self._leg(True, (slot,), True, following)

    def park(self, cell: int) -> Leg:
        """Return the route: drive unloaded to `cell` and stay."""
        return self._leg(False, (cell,), False, None)

    def stay(self, loaded: bool) -> Leg:
        """Return the empty route of a robot that has nowhere to go."""
        return self._stay[loaded]

    def _parking_cells(self, count: int) -> tuple[int, ...]:
        """Return highway cells from which a shelf is near, on average, the best first.

        Each is the cell that most shortens the mean way from the nearest of those chosen so far
        to a slot (greedy k-median). There are fewer than `count` where highways are.
        """
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

    def _make_leg(
        self, loaded: bool, targets: tuple[int, ...], toggles: bool, following: Leg | None
    ) -> Leg:
        ends = [4 * cell + heading for cell in targets for heading in range(4)]
        costs = [int(toggles) + (following.steps(p) if following is not None else 0) for p in ends]
        offset = min(costs)
        kept = tuple((p, c - offset) for p, c in zip(ends, costs, strict=True) if c < UNREACHABLE)
        return Leg(
            self._table(loaded, kept), offset, loaded, frozenset(targets), toggles, following
        )

    def _make_table(self, loaded: bool, ends: tuple[tuple[int, int], ...]) -> list[int]:
        """Return min over (pose, cost) in `ends` of the steps to that pose plus its cost."""
        if not ends:
            return [UNREACHABLE] * self.n_poses
        ways = np.stack([self.distances(pose, loaded) + cost for pose, cost in ends])
        table: list[int] = ways.min(axis=0).tolist()
        return table

    def _distances(self, target: int, loaded: bool) -> npt.NDArray[np.int32]:
        """Return the steps from every pose to the pose `target`, (n_poses,), by backward search."""
        steps = [UNREACHABLE] * self.n_poses
        steps[target] = 0
        frontier = deque([target])
        while frontier:
            pose = frontier.popleft()
            cell = pose >> 2
            closed = loaded and self.slots[cell] and cell != target >> 2
            for before in self._predecessors[pose]:
                if steps[before] == UNREACHABLE and not (closed and before >> 2 != cell):
                    steps[before] = steps[pose] + 1
                    frontier.append(before)
        return np.asarray(steps, dtype=np.int32)

    def _successors(self, pose: int) -> tuple[int, ...]:
        cell, heading = divmod(pose, 4)
        stationary = (pose, 4 * cell + (heading - 1) % 4, 4 * cell + (heading + 1) % 4)
        y, x = divmod(cell, self.width)
        x, y = x + _STEP[heading][0], y + _STEP[heading][1]
        inside = 0 <= x < self.width and 0 <= y < self.n_cells // self.width
        return (*stationary, 4 * (y * self.width + x) + heading) if inside else stationary


@lru_cache(maxsize=8)
def _tables_of(width: int, slots: tuple[bool, ...], goals: tuple[int, ...]) -> MotionTables:
    return MotionTables(width, slots, goals)


@dataclass(frozen=True)
class WarehouseState:
    """Robots, shelves and requests of a warehouse at one time step."""

    poses: list[int]
    """Of each robot."""
    loaded: list[bool]
    """Whether each robot carries a shelf."""
    delivering: list[bool]
    """Whether that shelf is requested and can be brought to a goal from where the robot is."""
    open_requests: list[int]
    """Cells of the requested shelves that no robot carries."""

    @classmethod
    def of(cls, warehouse: Warehouse, motion: MotionTables) -> WarehouseState:
        """Return the present state of a warehouse with the layout of `motion`."""
        agents, requests = warehouse.agents, warehouse.request_queue
        requested = {shelf.id for shelf in requests}
        carried = {a.carrying_shelf.id for a in agents if a.carrying_shelf is not None}
        poses = [4 * motion.cell(a) + CLOCKWISE[a.dir.value] for a in agents]
        goal = motion.deliver()
        return cls(
            poses=poses,
            loaded=[a.carrying_shelf is not None for a in agents],
            delivering=[
                a.carrying_shelf is not None
                and a.carrying_shelf.id in requested
                and goal.steps(pose) < UNREACHABLE
                for a, pose in zip(agents, poses, strict=True)
            ],
            open_requests=[motion.cell(s) for s in requests if s.id not in carried],
        )


class WarehouseExpert(BehaviorPolicy):
    """Base of the experts that see the whole warehouse of an `RwareEnv`.

    Attributes:
        name: of the expert, for the error message.
    """

    name: ClassVar[str]

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode; travel times are kept from episode to episode.

        Raises:
            UserError: an environment other than RWARE.
        """
        warehouse: Warehouse | None = getattr(env, "warehouse", None)
        if warehouse is None:
            raise UserError(
                f"{self.name} knows RWARE warehouses only, not {type(env).__name__}; "
                "choose env=rware or another behavior policy."
            )
        self._warehouse = warehouse
        self._motion = MotionTables.of(warehouse)
        self._rng = rng

    def state(self) -> WarehouseState:
        """Return the present state of the warehouse; `RuntimeError` before the first `reset`."""
        if not hasattr(self, "_warehouse"):
            raise RuntimeError(f"{type(self).__name__}.act() was called before reset().")
        return WarehouseState.of(self._warehouse, self._motion)

    def free_slots(self) -> list[int]:
        """Return the slots in which no shelf stands."""
        carried = {a.carrying_shelf.id for a in self._warehouse.agents if a.carrying_shelf}
        cell = self._motion.cell
        standing = {cell(s) for s in self._warehouse.shelfs if s.id not in carried}
        return [slot for slot in self._motion.slot_cells if slot not in standing]
