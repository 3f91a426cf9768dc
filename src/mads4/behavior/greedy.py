"""A warehouse expert whose every decision follows from what an agent is given.

Robots walk to the nearest request, then to the nearest goal, then to the nearest empty slot, by
simple rules of right of way. There is no plan and almost no memory, so that a policy that sees
the state can learn it (hidden joint optimization, as in the planner, clones badly).

Robots decide one after the other. A robot that stands where an earlier one wants to go makes room
and decides next, so that a whole queue backs out of an aisle (the priority inheritance of
Okumura et al., "Priority Inheritance with Backtracking", IJCAI 2019, without the backtracking).
No robot drives against one with a load that is on its way through an aisle.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from mads4.behavior.motion import (
    FORWARD,
    LEFT,
    RIGHT,
    TOGGLE,
    UNREACHABLE,
    WAIT,
    Leg,
    MotionTables,
    WarehouseExpert,
    WarehouseState,
)
from mads4.behavior.paths import NOWHERE, Way, around, straight
from mads4.behavior.registry import register
from mads4.envs.protocol import MultiAgentEnv
from mads4.types import IntArray, TimeStep

PATIENCE = 6
"""Steps that a robot waits for others before it tries a random move."""
LANE = 10
"""Cells ahead of a robot with a load that no robot may enter against it."""
DETOUR = 6
"""Further actions that a robot accepts to walk around others rather than wait."""
SHARED = -1
"""Stands for the goals, which any number of robots may have in mind."""


@register("greedy")
class Greedy(WarehouseExpert):
    """The greedy expert for `RwareEnv` (a `BehaviorPolicy`)."""

    name = "the greedy expert"

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode; travel times are kept from episode to episode.

        Raises:
            UserError: an environment other than RWARE.
        """
        super().reset(env, rng)
        self._last = [-1] * self._warehouse.n_agents
        self._waited = [0] * self._warehouse.n_agents

    def act(self, now: TimeStep | None = None) -> IntArray:
        """Return the actions (N,)."""
        robots = self._robots()
        actions = np.zeros(len(robots), dtype=np.int64)
        traffic = Traffic(self._motion, robots)
        for index, action in traffic.decide().items():
            actions[index] = self._unstick(robots[index], action)
        return actions

    def _robots(self) -> list[Robot]:
        """Return all robots with their tasks: the nearest pair of robot and cell comes first."""
        state = self.state()
        legs: dict[int, Leg] = {}
        taken: set[int] = set()
        for cost, cell, index, leg in sorted(self._choices(state), key=lambda choice: choice[:3]):
            if index not in legs and cell not in taken and cost < UNREACHABLE:
                legs[index] = leg
                if cell != SHARED:
                    taken.add(cell)
        poses = zip(state.poses, state.loaded, strict=True)
        return [self._robot(i, pose, load, legs.get(i)) for i, (pose, load) in enumerate(poses)]

    def _choices(self, state: WarehouseState) -> list[tuple[int, int, int, Leg]]:
        """Return what each robot may do next: (cost, cell, robot, leg)."""
        motion, free_slots = self._motion, state.free_slots
        choices: list[tuple[int, int, int, Leg]] = []
        for index, pose in enumerate(state.poses):
            if not state.loaded[index]:
                options = [(cell, motion.park(cell)) for cell in state.open_requests]
            elif state.delivering[index]:
                options = [(SHARED, motion.deliver())]
            else:
                options = [(cell, motion.put_back(cell)) for cell in free_slots]
            choices += [(leg.steps(pose), cell, index, leg) for cell, leg in options]
        return choices

    def _robot(self, index: int, pose: int, loaded: bool, leg: Leg | None) -> Robot:
        leg = self._motion.stay(loaded) if leg is None else leg
        # a robot without a task comes last and makes room for all
        way = straight(self._motion, leg, pose, LANE if loaded else 2) if leg.targets else NOWHERE
        return Robot(index, pose, loaded, leg, way, self._motion.slots[pose >> 2])

    def _unstick(self, robot: Robot, action: int) -> int:
        """Return a random move instead of `action` when the robot has not moved for too long."""
        index = robot.index
        moved = robot.pose != self._last[index]
        self._last[index] = robot.pose
        self._waited[index] = 0 if moved or action == TOGGLE else self._waited[index] + 1
        if self._waited[index] <= PATIENCE:
            return action
        return int(self._rng.choice((FORWARD, LEFT, RIGHT)))


@dataclass(frozen=True)
class Robot:
    """What decides about one robot's next action."""

    index: int
    pose: int
    loaded: bool
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
        return not self.loaded, self.loaded and not self.in_slot, self.way.cost, self.index


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
                # a robot in the way decides next, so that it makes room if it can
                following = self._at.get(way.cells[0]) if way.cells else None
        return self._actions

    def _keep(self, robot: Robot, way: Way) -> None:
        self._actions[robot.index] = way.action
        leaves = way.action == FORWARD and way.cells
        self._next[robot.cell] = way.cells[0] if leaves else robot.cell
        self._pressed.update(way.cells[:1])
        if robot.loaded:
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
        """Return the way to the nearest cell where the robot is in no other's way."""
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
