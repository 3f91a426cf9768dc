"""A warehouse expert whose every decision follows from what an agent is given.

Robots walk to the nearest request, then to the nearest goal, then to the nearest empty slot, by
simple rules of right of way. There is no plan and almost no memory, so that a policy that sees
the state can learn it (hidden joint optimization, as in the planner, clones badly).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mads4.behavior.motion import (
    FORWARD,
    LEFT,
    RIGHT,
    TOGGLE,
    UNREACHABLE,
    Leg,
    MotionTables,
)
from mads4.behavior.registry import register
from mads4.behavior.routes import NOWHERE, straight
from mads4.behavior.traffic import Robot, Traffic
from mads4.envs.rware_state import CLOCKWISE
from mads4.errors import UserError
from mads4.types import IntArray, TimeStep

if TYPE_CHECKING:
    from rware.warehouse import Agent, Warehouse

    from mads4.envs.protocol import MultiAgentEnv

PATIENCE = 6
"""Steps that a robot waits for others before it tries a random move."""
LANE = 10
"""Cells ahead of a robot with a load that nobody may enter against it."""
SHARED = -1
"""Stands for the goals, which any number of robots may have in mind."""


@register("greedy")
class Greedy:
    """The greedy expert for `RwareEnv` (a `BehaviorPolicy`)."""

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode; travel times are kept from episode to episode.

        Raises:
            UserError: an environment other than RWARE.
        """
        warehouse: Warehouse | None = getattr(env, "warehouse", None)
        if warehouse is None:
            raise UserError(
                f"the greedy expert knows RWARE warehouses only, not {type(env).__name__}; "
                "choose env=rware or another behavior."
            )
        self._warehouse = warehouse
        self._motion = MotionTables.of(self._warehouse)
        self._rng = rng
        self._last = [-1] * self._warehouse.n_agents
        self._waited = [0] * self._warehouse.n_agents

    def metrics(self) -> dict[str, float]:
        """Nothing to tell."""
        return {}

    def act(self, now: TimeStep | None = None) -> IntArray:
        """Return the actions (N,)."""
        robots = self._robots()
        actions = np.zeros(len(robots), dtype=np.int64)
        traffic = Traffic(self._motion, robots)
        for index, action in traffic.decide().items():
            actions[index] = self._unstick(robots[index], action)
        return actions

    def _robots(self) -> list[Robot]:
        """Return all robots with their errands: the nearest pair of robot and cell comes first."""
        agents = self._warehouse.agents
        poses = [4 * self._motion.cell(agent) + CLOCKWISE[agent.dir.value] for agent in agents]
        legs: dict[int, Leg] = {}
        taken: set[int] = set()
        for cost, cell, index, leg in sorted(self._choices(poses), key=lambda choice: choice[:3]):
            if index not in legs and cell not in taken and cost < UNREACHABLE:
                legs[index] = leg
                if cell != SHARED:
                    taken.add(cell)
        return [self._robot(i, agent, poses[i], legs.get(i)) for i, agent in enumerate(agents)]

    def _choices(self, poses: list[int]) -> list[tuple[int, int, int, Leg]]:
        """Return what each robot may do next: (cost, cell, robot, leg)."""
        warehouse, motion = self._warehouse, self._motion
        loads = {id(a.carrying_shelf) for a in warehouse.agents if a.carrying_shelf is not None}
        requests = [self._motion.cell(s) for s in warehouse.request_queue if id(s) not in loads]
        empties: list[int] | None = None
        choices: list[tuple[int, int, int, Leg]] = []
        for index, (agent, pose) in enumerate(zip(warehouse.agents, poses, strict=True)):
            deliver = motion.deliver()
            if agent.carrying_shelf is None:
                options = [(cell, motion.park(cell)) for cell in requests]
            elif (
                agent.carrying_shelf in warehouse.request_queue
                and deliver.steps(pose) < UNREACHABLE
            ):
                options = [(SHARED, deliver)]
            else:
                empties = self._empties(loads) if empties is None else empties
                options = [(cell, motion.put_back(cell)) for cell in empties]
            choices += [(leg.steps(pose), cell, index, leg) for cell, leg in options]
        return choices

    def _empties(self, loads: set[int]) -> list[int]:
        standing = {self._motion.cell(s) for s in self._warehouse.shelfs if id(s) not in loads}
        return [cell for cell in self._motion.slot_cells if cell not in standing]

    def _robot(self, index: int, agent: Agent, pose: int, leg: Leg | None) -> Robot:
        laden = agent.carrying_shelf is not None
        leg = self._motion.stay(laden) if leg is None else leg
        # one that has no errand comes last, and makes room for everybody
        way = straight(self._motion, leg, pose, LANE if laden else 2) if leg.targets else NOWHERE
        return Robot(index, pose, laden, leg, way, self._motion.slots[pose >> 2])

    def _unstick(self, robot: Robot, action: int) -> int:
        """Return a random move instead of `action` when the robot has not moved for too long."""
        index = robot.index
        moved = robot.pose != self._last[index]
        self._last[index] = robot.pose
        self._waited[index] = 0 if moved or action == TOGGLE else self._waited[index] + 1
        if self._waited[index] <= PATIENCE:
            return action
        return int(self._rng.choice((FORWARD, LEFT, RIGHT)))
