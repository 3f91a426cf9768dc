"""Path planning for one robot: alone, around blocked cells, and around reserved paths.

The last is space-time A* over a short window, as in Silver, "Cooperative Pathfinding" (AIIDE 2005),
with exact travel times as heuristic: if no robot is in the way, only the nodes on one path are
opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

from mads4.behavior.motion import (
    FORWARD,
    LEFT,
    RIGHT,
    TOGGLE,
    UNREACHABLE,
    WAIT,
    Leg,
    MotionTables,
)

_ORDER = ((3, FORWARD), (1, LEFT), (2, RIGHT))
"""Position in `MotionTables.successors` and action, in order of tie-breaking."""


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
                return _way(came, pose, here, cost)
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


def _way(came: dict[int, tuple[int, int]], start: int, end: int, cost: int) -> Way:
    cells: list[int] = []
    action = WAIT
    here = end
    while here != start:
        before, action = came[here]
        if action == FORWARD:
            cells.append(here >> 2)
        here = before
    return Way(action, cost, tuple(reversed(cells)))


class Reservations:
    """Cells and moves that planned robots take within the window, step by step."""

    def __init__(self, window: int, n_cells: int) -> None:
        self.window = window
        self.n_cells = n_cells
        self.cells: list[set[int]] = [set() for _ in range(window + 1)]
        """At each time the cells that are taken."""
        self.moves: list[set[int]] = [set() for _ in range(window + 1)]
        """For each time the moves ``from * n_cells + to`` that arrive then."""

    def add(self, path: list[int]) -> None:
        """Reserve the cells of `path`, one pose for each time from 0 on."""
        for time, (before, after) in enumerate(pairwise(path), start=1):
            self.cells[time].add(after >> 2)
            self.moves[time].add((before >> 2) * self.n_cells + (after >> 2))

    def allow(self, time: int, cell: int, target: int) -> bool:
        """Return whether a robot may go from `cell` to `target`, or stay, to be there at `time`."""
        return target not in self.cells[time] and (
            target == cell or target * self.n_cells + cell not in self.moves[time]
        )

    def free_from(self, time: int, cell: int) -> bool:
        """Return whether no robot takes `cell` from `time` to the end of the window."""
        return not any(cell in cells for cells in self.cells[time:])

    @contextmanager
    def standing(
        self, motion: MotionTables, pose: int, others: list[tuple[int, Leg]]
    ) -> Iterator[None]:
        """Reserve, within the context, what robots without a path cannot have left in time.

        Without this a robot of higher rank plans to drive into a cell whose occupant still has
        to turn, or could leave it only by trading places, and both stand still for ever.

        Args:
            motion: the layout.
            pose: the robot about to be planned.
            others: pose and route of each robot that is planned after it.
        """
        held: list[set[int]] = [self._held_for_one_step(motion, pose, others), set(), set()]
        for other, route in others:
            departure = _earliest_departure(motion, pose >> 2, other, route)
            for cells in held[: departure - 1]:
                cells.add(other >> 2)
        added = [cells - self.cells[t] for t, cells in enumerate(held, start=1)]
        for time, cells in enumerate(added, start=1):
            self.cells[time] |= cells
        yield
        for time, cells in enumerate(added, start=1):
            self.cells[time] -= cells

    def _held_for_one_step(
        self, motion: MotionTables, pose: int, others: list[tuple[int, Leg]]
    ) -> set[int]:
        held: set[int] = set()
        trading: set[int] = set()  # could leave only into the planned robot's own cell
        leaving: dict[int, int] = {}
        for other, route in others:
            cell, ahead = other >> 2, motion.ahead(other, route)
            if ahead is None or ahead in self.cells[1] or self._trades(cell, ahead):
                held.add(cell)
            elif ahead == pose >> 2:
                trading.add(cell)
            else:
                leaving[cell] = ahead
        while blocked := [cell for cell, ahead in leaving.items() if ahead in held]:
            for cell in blocked:
                held.add(cell)
                del leaving[cell]
        return held | trading

    def _trades(self, cell: int, ahead: int) -> bool:
        """Return whether moving from `cell` to `ahead` now meets a planned robot coming back."""
        return ahead * self.n_cells + cell in self.moves[1]


def _earliest_departure(motion: MotionTables, forbidden: int, pose: int, route: Leg) -> int:
    """Return the first time at which a robot can be gone, not through the cell `forbidden`."""
    _, left, right = motion.successors[pose][:3]
    for time, poses in enumerate(((pose,), (left, right), (motion.successors[left][1],)), start=1):
        if any(motion.ahead(p, route) not in (None, forbidden) for p in poses):
            return time
    return 4


def first_action(path: list[int], route: Leg) -> int:
    """Return the action that leads from a path's first pose to its second."""
    before, after = path[0], path[1]
    if before >> 2 != after >> 2:
        return FORWARD
    if before == after:
        return TOGGLE if route.toggles and before >> 2 in route.targets else WAIT
    return RIGHT if (after - before) % 4 == 1 else LEFT


def find_path(
    motion: MotionTables, pose: int, route: Leg, reserved: Reservations
) -> list[int] | None:
    """Return the poses at times 0 … ``window`` of the quickest way along `route`, or None.

    Only the window is searched; what lies beyond counts as if it were free. None means
    that every way, waiting included, runs into a reservation.
    """
    path = _unhindered_path(motion, pose, route, reserved)
    return path if path is not None else _search(motion, pose, route, reserved)


def _unhindered_path(
    motion: MotionTables, pose: int, route: Leg, reserved: Reservations
) -> list[int] | None:
    """Follow the table downhill for as long as it is free; None if it is not."""
    leg, path, left = route, [pose], route.table[pose] + route.offset
    for time in range(1, reserved.window + 1):
        if left == 0:
            free = reserved.free_from(time, pose >> 2)
            return path + [pose] * (reserved.window + 1 - time) if free else None
        left -= 1
        for after in motion.successors[pose]:
            target = after >> 2
            arrived = target in leg.targets and (after == pose or not leg.toggles)
            at = leg.following if arrived and leg.following else leg
            if (
                at.table[after] + at.offset == left
                and reserved.allow(time, pose >> 2, target)
                and (target == pose >> 2 or leg.admits(target, motion.slots[target]))
            ):
                break
        else:
            return None
        path.append(after)
        leg, pose = at, after
    return path


def _search(
    motion: MotionTables, pose: int, route: Leg, reserved: Reservations
) -> list[int] | None:
    """Search all ways within the window, best first (A*)."""
    legs, n_poses, n_cells, slots = route.legs, motion.n_poses, motion.n_cells, motion.slots
    window = reserved.window
    layer = n_poses * len(legs)  # a node is time * layer + leg * n_poses + pose
    size = layer * (window + 1)  # a queue entry sorts by total time, then by depth, then by node
    successors = motion.successors
    came_from = {pose: -1}
    queue = [pose]
    while queue:
        node = heappop(queue) % size
        time, rest = divmod(node, layer)
        if time == window:
            return _trace(node, came_from, n_poses)
        index, here = divmod(rest, n_poses)
        leg, cell = legs[index], here >> 2
        if leg.following is None and leg.steps(here) == 0 and reserved.free_from(time + 1, cell):
            return _trace(node, came_from, n_poses) + [here] * (window - time)
        time += 1
        taken, moves = reserved.cells[time], reserved.moves[time]
        for after in successors[here]:
            target, at = after >> 2, index
            if target in taken:
                continue
            if target != cell:
                if target * n_cells + cell in moves:
                    continue
                if leg.loaded and slots[target] and target not in leg.targets:
                    continue
            if target in leg.targets and leg.following and (after == here or not leg.toggles):
                at += 1
            reached = time * layer + at * n_poses + after
            if reached not in came_from:
                came_from[reached] = node
                left = legs[at].table[after] + legs[at].offset
                if left < UNREACHABLE:
                    heappush(queue, ((time + left + 1) * (window + 1) - time) * size + reached)
    return None


def _trace(node: int, came_from: dict[int, int], n_poses: int) -> list[int]:
    path = []
    while node >= 0:
        path.append(node % n_poses)
        node = came_from[node]
    return path[::-1]
