"""The way a robot takes next, by the tables of travel times: straight on, or around others."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from mads4.behavior.motion import FORWARD, LEFT, RIGHT, UNREACHABLE, WAIT, Leg, MotionTables

_ORDER = ((3, FORWARD), (1, LEFT), (2, RIGHT))
"""Position in `MotionTables.successors` and action, in the order in which ties are broken."""


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
