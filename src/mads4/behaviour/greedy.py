"""A warehouse expert whose every decision follows from what an agent is given.

Each robot by itself walks to the nearest free request, then to the nearest goal, then to the
nearest empty slot. Robots decide in the order of their numbers; a later one leaves to an earlier
one what that has taken, and gives way. There is no plan and almost no memory, so that a policy that
sees the state can learn it (hidden joint optimisation, as in the planner, clones badly).
"""

from __future__ import annotations

import numpy as np
from rware.warehouse import Agent, Warehouse

from mads4.behaviour.routes import (
    FORWARD,
    LEFT,
    RIGHT,
    TOGGLE,
    WAIT,
    Cell,
    Pose,
    Routes,
    after,
    pose,
)
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.rware_state import empty_slots
from mads4.types import IntArray

PATIENCE = 4
"""Steps that a robot waits for others before it tries a random move."""
SIGHT = 2
"""Cells within which a robot minds the others' moves."""
DETOUR = 6
"""Further actions that a robot accepts to walk around others rather than wait."""


class Greedy:
    """The greedy expert for `RwareEnv` (a `Behaviour`)."""

    def __init__(self) -> None:
        self._routes: Routes | None = None

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode; walking costs are kept from episode to episode."""
        self._warehouse: Warehouse = env.warehouse  # type: ignore[attr-defined]
        if self._routes is None:
            self._routes = Routes(self._warehouse)
        self._rng = rng
        self._last = [pose(agent) for agent in self._warehouse.agents]
        self._waited = [0] * len(self._last)

    def metrics(self) -> dict[str, float]:
        """Nothing to tell."""
        return {}

    def act(self) -> IntArray:
        """Return the actions (N,)."""
        warehouse = self._warehouse
        claims: set[Cell] = set()
        taken: dict[Cell, Cell] = {}  # where earlier robots are → where they will be
        actions = np.zeros(warehouse.n_agents, dtype=np.int64)
        for index in sorted(range(warehouse.n_agents), key=self._right_of_way):
            agent = warehouse.agents[index]
            start = pose(agent)
            targets = self._targets(agent, claims)
            target = self._nearest(start, targets, agent.carrying_shelf is not None)
            if target is not None and target not in self.routes.goals:
                claims.add(target)
            action = self._move(start, target, agent.carrying_shelf is not None, taken)
            actions[index] = action = self._unstick(index, start, action)
            taken[start[:2]] = after(start, action)[:2]
        return actions

    def _right_of_way(self, index: int) -> tuple[bool, bool, int]:
        """Robots that can go fewer ways come first: with a load, and in a slot; then by number."""
        agent = self._warehouse.agents[index]
        return agent.carrying_shelf is None, (agent.x, agent.y) not in self.routes.slots, index

    @property
    def routes(self) -> Routes:
        """Walking costs of the present layout."""
        assert self._routes is not None, "reset comes before act"
        return self._routes

    def _targets(self, agent: Agent, claims: set[Cell]) -> list[Cell]:
        """Return the cells that would do for what the robot wants now."""
        warehouse = self._warehouse
        load = agent.carrying_shelf
        if load is not None and load in warehouse.request_queue:
            return self.routes.goals
        if load is not None:
            return [c for c in sorted(empty_slots(warehouse, self.routes.slots)) if c not in claims]
        carried = [other.carrying_shelf for other in warehouse.agents]
        cells = [(int(s.x), int(s.y)) for s in warehouse.request_queue if s not in carried]
        return [cell for cell in cells if cell not in claims]

    def _nearest(self, start: Pose, targets: list[Cell], laden: bool) -> Cell | None:
        return min(targets, key=lambda c: (self.routes.cost(start, c, laden), c), default=None)

    def _move(self, start: Pose, target: Cell | None, laden: bool, taken: dict[Cell, Cell]) -> int:
        """Return the action towards `target` that gives way to the robots that came before."""
        here = start[:2]
        pushed = here in taken.values()
        # a cell is free if nobody will be there, and nobody leaves it towards me
        held = set(taken.values()) | {cell for cell, goes in taken.items() if goes == here}
        held.discard(here)
        if here == target:
            return TOGGLE
        action = WAIT if target is None else self.routes.action(start, target, laden)
        if target is not None and any(_walk(here, cell) <= SIGHT for cell in held):
            detour, cost = self.routes.detour(start, [target], laden, held)
            if pushed or cost <= self.routes.cost(start, target, laden) + DETOUR:
                action = detour
            elif action == FORWARD and after(start, FORWARD)[:2] in held:
                action = WAIT
        if pushed and action == WAIT:
            action = self._step_aside(start, laden, held)
        return action

    def _step_aside(self, start: Pose, laden: bool, held: set[Cell]) -> int:
        """Return a move that clears the robot's cell."""
        free = self.routes.cells - held - {start[:2]}
        if laden:
            free -= self.routes.slots
        return self.routes.detour(start, free, laden, held)[0]

    def _unstick(self, index: int, position: Pose, action: int) -> int:
        """Return a random move instead of `action` when the robot has not moved for too long."""
        moved = position != self._last[index]
        self._last[index] = position
        self._waited[index] = 0 if moved or action == TOGGLE else self._waited[index] + 1
        if self._waited[index] <= PATIENCE:
            return action
        return int(self._rng.choice((FORWARD, LEFT, RIGHT)))


def _walk(one: Cell, other: Cell) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
