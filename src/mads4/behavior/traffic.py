"""Right of way among warehouse robots, from their places and where they want to go alone.

Robots decide one after the other. Whoever stands where one that decided before wants to go makes
room, and decides next, so that a whole queue backs out of an aisle (the priority inheritance of
Okumura et al., "Priority Inheritance with Backtracking", IJCAI 2019, without the backtracking).
Nobody drives against a robot with a load that is on its way through an aisle.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from mads4.behavior.motion import FORWARD, TOGGLE, UNREACHABLE, WAIT, Leg, MotionTables
from mads4.behavior.routes import Way, around

DETOUR = 6
"""Further actions that a robot accepts to walk around others rather than wait."""


@dataclass(frozen=True)
class Robot:
    """What decides about one robot's next action."""

    index: int
    pose: int
    laden: bool
    leg: Leg
    """Where it wants to go."""
    way: Way
    """How it would go if it were alone."""
    in_slot: bool
    """Whether it is where a shelf may stand."""

    @property
    def cell(self) -> int:
        """Where it is."""
        return self.pose >> 2

    @property
    def right_of_way(self) -> tuple[bool, bool, int, int]:
        """Robots that can go fewer ways come first, then those that are nearly there."""
        return not self.laden, self.laden and not self.in_slot, self.way.cost, self.index


class Traffic:
    """Right of way at one moment: each robot in turn minds those that decided before it."""

    def __init__(self, motion: MotionTables, robots: list[Robot]) -> None:
        self._motion = motion
        self._robots = robots
        self._at = {robot.cell: robot for robot in robots}
        self._actions: dict[int, int] = {}
        self._next: dict[int, int] = {}  # cell of a decided robot → where it will be
        self._pressed: set[int] = set()  # cells that decided robots want to enter
        self._lanes: list[tuple[int, ...]] = []  # cells ahead of decided robots with a load

    def decide(self) -> dict[int, int]:
        """Return each robot's action by its index."""
        for robot in sorted(self._robots, key=lambda robot: robot.right_of_way):
            following: Robot | None = robot
            while following is not None and following.index not in self._actions:
                way = self._way(following)
                self._keep(following, way)
                # whoever stands in the way decides next, so that it makes room if it can
                following = self._at.get(way.cells[0]) if way.cells else None
        return self._actions

    def _keep(self, robot: Robot, way: Way) -> None:
        self._actions[robot.index] = way.action
        leaves = way.action == FORWARD and way.cells
        self._next[robot.cell] = way.cells[0] if leaves else robot.cell
        self._pressed.update(way.cells[:1])
        if robot.laden:
            self._lanes.append((robot.cell, *way.cells))

    def _way(self, robot: Robot) -> Way:
        here, way = robot.cell, robot.way
        if here in robot.leg.targets:
            return Way(TOGGLE, 0, ())
        held = set(self._next.values())
        held.update(cell for cell, goes in self._next.items() if goes == here)
        held.discard(here)
        against = self._against((here, *way.cells[:2]))
        pushed = here in self._pressed or any(here in lane for lane in against)
        if pushed:
            busy = held.union(*against) | self._pressed
            if way.cells and way.cells[0] not in busy:
                return way
            return self._aside(robot, held, busy)
        if not way.cells:
            return way
        if way.cells[0] not in held and not against:
            return way
        if not against:
            detour = around(
                self._motion, robot.leg, robot.pose, robot.leg.targets, held, way.cost + DETOUR
            )
            if detour.cost < UNREACHABLE:
                return detour
        action = way.action if way.action != FORWARD else WAIT
        return Way(action, way.cost, ())

    def _aside(self, robot: Robot, held: set[int], busy: set[int]) -> Way:
        """Return the way to the nearest cell where the robot is in nobody's way."""
        free = {
            cell for cell in range(self._motion.n_cells) if cell not in busy and cell != robot.cell
        }
        return around(self._motion, robot.leg, robot.pose, free, held, UNREACHABLE)

    def _against(self, cells: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the lanes along which `cells` would lead against their direction."""
        pairs = set(zip(cells[1:], cells[:-1], strict=True))
        return [
            lane for lane in self._lanes if any(pair in pairs for pair in itertools.pairwise(lane))
        ]
