"""The cooperative expert for RWARE: it sees the whole warehouse and plans for all robots at once.

Every step, each robot gets a route (which request to fetch, which empty slot to use) and then a
collision-free way along it for the next few steps, one robot after the other: deliveries before
returns before fetches, later robots around earlier ones (Silver, "Cooperative Pathfinding",
AIIDE 2005).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from mads4.behavior.motion import (
    TOGGLE,
    UNREACHABLE,
    WAIT,
    Leg,
    WarehouseExpert,
    WarehouseState,
)
from mads4.behavior.paths import Reservations, find_path, first_action
from mads4.behavior.registry import register
from mads4.envs.protocol import MultiAgentEnv
from mads4.types import IntArray, TimeStep

WINDOW = 12
"""Steps that are planned ahead."""
LOYALTY = 3
"""Steps that a new slot or request must save before a robot changes its mind: without this the
robots' choices chase each other and none arrives."""
PATIENCE = 30
"""Steps without getting nearer after which a robot may give up its task for a while: a jam in
which every order of planning leaves a robot walled in ends only if one makes way."""
DELIVERING, RETURNING, FETCHING, IDLE = range(4)
"""What a robot is about, in the order in which robots are given way."""


_Task: TypeAlias = tuple[int, int | None, int | None]
"""Task, slot and request of a robot."""


@register("planner")
class CooperativePlanner(WarehouseExpert):
    """Windowed prioritized space-time A* on the true state of an RWARE warehouse.

    Args:
        window: steps planned ahead.

    It keeps in mind which slot and request each robot was given and who got no further, but
    starts from the true state each time, whatever actions were executed since. A request whose
    shelf is walled in by standing shelves is left alone.
    """

    name = "the cooperative planner"

    def __init__(self, window: int = WINDOW) -> None:
        self.window = window

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode of `env`; `rng` decides only who makes way in a jam.

        Raises:
            UserError: `env` is no RWARE warehouse.
        """
        super().reset(env, rng)
        n_agents = len(self._warehouse.agents)
        self._slot: list[int | None] = [None] * n_agents
        self._request: list[int | None] = [None] * n_agents
        self._urgent = [0] * n_agents
        self._yielding = [0] * n_agents
        self._nearest: list[tuple[_Task, int]] = [((IDLE, None, None), 0)] * n_agents
        self._no_nearer = [0] * n_agents

    def act(self, now: TimeStep | None = None) -> IntArray:
        """Return one action per robot, (N,) int64, for the environment's present state."""
        state = self.state()
        # a robot that cannot get out with its shelf puts it down and starts again from there
        self._tasks = [
            DELIVERING if delivering else RETURNING if loaded else FETCHING
            for loaded, delivering in zip(state.loaded, state.delivering, strict=True)
        ]
        self._assign_slots(state)
        self._assign_requests(state)
        routes = self._make_way(state, self._routes(state))
        paths = self._plan(state, routes)
        actions = np.full(len(routes), WAIT, dtype=np.int64)
        for robot, (path, route) in enumerate(zip(paths, routes, strict=True)):
            if path is not None:
                actions[robot] = first_action(path, route)
            elif route.toggles and state.poses[robot] >> 2 in route.targets:
                actions[robot] = TOGGLE
        return actions

    def _assign_slots(self, state: WarehouseState) -> None:
        """Give each carrier an empty slot of its own, for the least total travel."""
        free_slots = state.free_slots
        carriers = [i for i, task in enumerate(self._tasks) if task < FETCHING]
        still_open = [r if r in state.open_requests else None for r in self._request]
        self._slot = _match(
            carriers,
            free_slots,
            [[self._steps(state, i, slot, still_open[i]) for slot in free_slots] for i in carriers],
            self._slot,
        )

    def _assign_requests(self, state: WarehouseState) -> None:
        """Give each open request to one robot; those that still deliver get what is left."""
        chosen: list[int | None] = [None] * len(state.poses)
        for delivering in (False, True):
            robots = [i for i, task in enumerate(self._tasks) if (task == DELIVERING) is delivering]
            requests = [r for r in state.open_requests if r not in chosen]
            costs = [[self._steps(state, i, self._slot[i], r) for r in requests] for i in robots]
            given = _match(robots, requests, costs, self._request)
            chosen = [a if a is not None else b for a, b in zip(chosen, given, strict=True)]
        self._request = chosen

    def _steps(
        self, state: WarehouseState, robot: int, slot: int | None, request: int | None
    ) -> int:
        return self._route(robot, slot, request).steps(state.poses[robot])

    def _route(self, robot: int, slot: int | None, request: int | None) -> Leg:
        motion, task = self._motion, self._tasks[robot]
        fetch = motion.fetch(request) if request is not None else None
        if task == FETCHING:
            return fetch or motion.stay(loaded=False)
        back = motion.put_back(slot, fetch) if slot is not None else None
        if task == DELIVERING:
            return motion.deliver(back)
        return back or motion.stay(loaded=True)

    def _routes(self, state: WarehouseState) -> list[Leg]:
        """Return each robot's route; those without a task wait where requests are near."""
        routes = []
        parking = iter(self._motion.parking_cells(len(state.poses)))
        for robot, pose in enumerate(state.poses):
            route = self._route(robot, self._slot[robot], self._request[robot])
            if not route.targets and not route.loaded:
                cell = next(parking, None)
                route = route if cell is None else self._motion.park(cell)
            if route.steps(pose) >= UNREACHABLE:
                route = self._motion.stay(route.loaded)
            routes.append(route)
        return routes

    def _make_way(self, state: WarehouseState, routes: list[Leg]) -> list[Leg]:
        """Take the task from robots that have not got nearer for long, for a window's time.

        Without a task a robot is planned last and driven out of the others' way. A coin
        decides who of those in a jam is first.
        """
        kept = []
        for robot, (pose, route) in enumerate(zip(state.poses, routes, strict=True)):
            current = (self._tasks[robot], self._slot[robot], self._request[robot])
            before, nearest = self._nearest[robot]
            steps = route.steps(pose)
            self._no_nearer[robot] += 1
            if steps == 0 or current != before or steps < nearest:
                self._nearest[robot] = (current, steps)
                self._no_nearer[robot] = 0
            if self._no_nearer[robot] >= PATIENCE and self._rng.random() < 0.5:
                self._no_nearer[robot], self._urgent[robot] = 0, 0
                self._yielding[robot] = self.window
            self._yielding[robot] = max(0, self._yielding[robot] - 1)
            kept.append(self._motion.stay(route.loaded) if self._yielding[robot] else route)
        return kept

    def _plan(self, state: WarehouseState, routes: list[Leg]) -> list[list[int] | None]:
        """Return a path per robot, None for those that could not be helped.

        A robot that finds itself walled in by those before it goes to the head of the queue, and
        stays there for a while lest it be pushed back at once.
        """
        ranks = [t if r.targets else IDLE for t, r in zip(self._tasks, routes, strict=True)]
        order = sorted(
            range(len(routes)),
            key=lambda i: (-self._urgent[i], ranks[i], routes[i].steps(state.poses[i]), i),
        )
        self._urgent = [max(0, left - 1) for left in self._urgent]
        best: list[list[int] | None] = [None] * len(routes)
        for _ in range(len(routes) + 1):
            paths = self._plan_in(order, state.poses, routes)
            if sum(p is not None for p in paths) > sum(p is not None for p in best):
                best = paths
            stuck = [i for i in order if paths[i] is None]
            if not stuck:
                break
            self._urgent[stuck[0]] = self.window
            order.remove(stuck[0])
            order.insert(0, stuck[0])
        return best

    def _plan_in(
        self, order: list[int], poses: list[int], routes: list[Leg]
    ) -> list[list[int] | None]:
        reserved = Reservations(self.window, self._motion.n_cells)
        paths: list[list[int] | None] = [None] * len(poses)
        for place, robot in enumerate(order):
            later = [(poses[i], routes[i]) for i in order[place + 1 :]]
            with reserved.standing(self._motion, poses[robot], later):
                path = find_path(self._motion, poses[robot], routes[robot], reserved)
            if path is not None:
                reserved.add(path)
            paths[robot] = path
        return paths


def _match(
    robots: list[int], cells: list[int], costs: list[list[int]], before: list[int | None]
) -> list[int | None]:
    """Return each robot's cell in the cheapest one-to-one assignment, loyal to the one before.

    Args:
        robots: those that take part; all others get None.
        cells: what there is to give.
        costs: steps for each of `robots` and `cells`; what cannot be reached is not given.
        before: the cell that each robot of the warehouse had.
    """
    from scipy.optimize import linear_sum_assignment  # takes half a second; others do without

    chosen: list[int | None] = [None] * len(before)
    if not robots or not cells:
        return chosen
    matrix = np.array(costs)
    for row, robot in enumerate(robots):
        held = before[robot]
        if held in cells:
            matrix[row, cells.index(held)] -= LOYALTY
    for row, column in zip(*linear_sum_assignment(matrix), strict=True):
        if costs[row][column] < UNREACHABLE:
            chosen[robots[row]] = cells[column]
    return chosen
