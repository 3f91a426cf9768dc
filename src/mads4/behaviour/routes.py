"""Exact walking costs in a warehouse, in actions (a quarter turn or a step ahead each cost one)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cached_property

from rware.warehouse import Warehouse

from mads4.envs.rware_state import shelf_slots

WAIT, FORWARD, LEFT, RIGHT, TOGGLE = range(5)
Cell = tuple[int, int]
Pose = tuple[int, int, int]
"""x, y, quarter turns clockwise from up."""

CLOCKWISE = (0, 2, 3, 1)
"""RWARE's heading number (up, down, left, right) → quarter turns clockwise from up."""
STEP = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""Quarter turns → (dx, dy) of a step ahead."""
UNREACHABLE = 1 << 20


def pose(agent: object) -> Pose:
    """Return the pose of an RWARE agent."""
    return int(agent.x), int(agent.y), CLOCKWISE[agent.dir.value]  # type: ignore[attr-defined]


def after(position: Pose, action: int) -> Pose:
    """Return the pose after an unhindered action."""
    x, y, turns = position
    if action == FORWARD:
        dx, dy = STEP[turns]
        return x + dx, y + dy, turns
    if action == LEFT:
        return x, y, (turns - 1) % 4
    if action == RIGHT:
        return x, y, (turns + 1) % 4
    return position


class Routes:
    """Costs to go in one layout, computed once for each target and remembered.

    A robot without load may walk anywhere, also under shelves. A robot with a load keeps to the
    highways, apart from the slot it starts in and the slot it goes to.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self.height, self.width = warehouse.grid_size
        self.slots = shelf_slots(warehouse)
        self.goals: list[Cell] = [(int(x), int(y)) for x, y in warehouse.goals]
        self._tables: dict[tuple[Cell, bool], dict[Pose, int]] = {}

    @cached_property
    def cells(self) -> frozenset[Cell]:
        """All cells of the grid."""
        return frozenset((x, y) for x in range(self.width) for y in range(self.height))

    def cost(self, start: Pose, target: Cell, laden: bool) -> int:
        """Return the fewest actions from `start` to `target`, any heading there."""
        return self._table(target, laden).get(start, UNREACHABLE)

    def action(self, start: Pose, target: Cell, laden: bool) -> int:
        """Return the first action of a cheapest route: ahead if that is one, then left, right."""
        table = self._table(target, laden)
        here = table.get(start, UNREACHABLE)
        for action in (FORWARD, LEFT, RIGHT):
            following = after(start, action)
            if action == FORWARD and not self._may_enter(following[:2], laden, target):
                continue
            if table.get(following, UNREACHABLE) < here:
                return action
        return WAIT

    def detour(
        self, start: Pose, targets: Iterable[Cell], laden: bool, blocked: set[Cell]
    ) -> tuple[int, int]:
        """Return first action and cost of a cheapest route to any target that avoids `blocked`.

        Where there is none, or the robot is there already: (WAIT, UNREACHABLE or 0).
        """
        wanted = set(targets) - blocked
        frontier = deque([(start, WAIT, 0)])
        seen = {start}
        while frontier:
            position, first, cost = frontier.popleft()
            if position[:2] in wanted:
                return first, cost
            for action in (FORWARD, LEFT, RIGHT):
                following = after(position, action)
                cell = following[:2]
                if following in seen or cell in blocked or cell not in self.cells:
                    continue
                if laden and action == FORWARD and cell in self.slots and cell not in wanted:
                    continue
                seen.add(following)
                frontier.append((following, first or action, cost + 1))
        return WAIT, UNREACHABLE

    def _may_enter(self, cell: Cell, laden: bool, target: Cell) -> bool:
        """A robot with a load can start in any slot, but walk only into the one it goes to."""
        return not laden or cell == target or cell not in self.slots

    def _table(self, target: Cell, laden: bool) -> dict[Pose, int]:
        key = (target, laden)
        if key not in self._tables:
            self._tables[key] = self._costs_to(target, laden)
        return self._tables[key]

    def _costs_to(self, target: Cell, laden: bool) -> dict[Pose, int]:
        """Breadth-first search backwards from `target` over poses."""
        costs: dict[Pose, int] = {(*target, turns): 0 for turns in range(4)}
        frontier = deque(costs)
        while frontier:
            x, y, turns = position = frontier.popleft()
            dx, dy = STEP[turns]
            before = [(x, y, (turns + 1) % 4), (x, y, (turns - 1) % 4)]
            if self._may_enter((x, y), laden, target):
                before.append((x - dx, y - dy, turns))
            for earlier in before:
                if earlier not in costs and earlier[:2] in self.cells:
                    costs[earlier] = costs[position] + 1
                    frontier.append(earlier)
        return costs
