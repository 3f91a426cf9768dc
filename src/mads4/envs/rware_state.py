"""Encodings of a warehouse's global state.

RWARE does not define a global state, and its encoding decides how well a policy can be learned
from it (``benchmarks/README.md`` has the comparison). Each encoder reads a live `Warehouse`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rware.warehouse import Agent, Warehouse

SHELF_LAYER = 1
CLOCKWISE = (0, 2, 3, 1)
"""RWARE's heading number (up, down, left, right) → quarter turns clockwise from up."""


class StateEncoder(ABC):
    """Encodes the present state of a warehouse."""

    dim: int
    """Number of features."""
    per_agent = False
    """True if each agent has its own view of the state."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    @abstractmethod
    def encode(self) -> npt.NDArray[Any]:
        """Return (N, dim) if `per_agent`, else (1, dim); uint8 if all features are 0 or 1."""

    def _requested(self) -> set[int]:
        """Return the ids of the requested shelves."""
        return {shelf.id for shelf in self._warehouse.request_queue}


def rotate(agent: Agent, x: int, y: int) -> tuple[int, int]:
    """Return the cell (x, y) in the agent's frame: (cells ahead, cells to the right)."""
    dx, dy = x - agent.x, y - agent.y
    heading = agent.dir.value  # RWARE: 0 up, 1 down, 2 left, 3 right; y grows downwards
    if heading == 0:
        return -dy, dx
    if heading == 1:
        return dy, -dx
    if heading == 2:
        return -dx, -dy
    return dx, dy


def shelf_slots(warehouse: Warehouse) -> frozenset[tuple[int, int]]:
    """Return the cells (x, y) where shelves may stand."""
    height, width = warehouse.grid_size
    highways = warehouse.highways
    return frozenset((x, y) for y in range(height) for x in range(width) if not highways[y, x])


def empty_slots(warehouse: Warehouse, slots: frozenset[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return the slots where no shelf stands; a carried shelf stands nowhere."""
    carried = {id(agent.carrying_shelf) for agent in warehouse.agents}
    return set(slots).difference(
        [(shelf.x, shelf.y) for shelf in warehouse.shelfs if id(shelf) not in carried]
    )


class Entities(StateEncoder):
    """One view per agent: one-hot offsets of robots, requests and empty slots in its own frame.

    Per agent: its own cell, heading and load; every other robot; every requested shelf, nearest
    first; every empty shelf slot (at most one per robot), nearest first. An offset is two one-hot
    vectors, cells ahead and cells to the right: unlike scaled coordinates, they let a single linear
    layer act on signs and exact distances.
    """

    per_agent = True

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        height, width = warehouse.grid_size
        self._slots = shelf_slots(warehouse)
        self._reach = max(height, width) - 1
        self._offset = 2 * (2 * self._reach + 1)
        own = width + height + 4 + 5
        others = (warehouse.n_agents - 1) * (self._offset + 6)
        requests = warehouse.request_queue_size * (self._offset + 2)
        empties = warehouse.n_agents * self._offset
        self.dim = own + others + requests + empties

    def encode(self) -> npt.NDArray[np.uint8]:
        """Return (N, dim) uint8, one row per agent."""
        warehouse = self._warehouse
        state = np.zeros((warehouse.n_agents, self.dim), dtype=np.uint8)
        empties = empty_slots(warehouse, self._slots)
        requested = self._requested()
        for row, agent in enumerate(warehouse.agents):
            state[row, self._active(agent, requested, empties)] = 1
        return state

    def _active(
        self, agent: Agent, requested: set[int], empties: set[tuple[int, int]]
    ) -> list[int]:
        warehouse = self._warehouse
        active = self._own(agent, requested)
        height, width = warehouse.grid_size
        base = width + height + 9
        for other in warehouse.agents:
            if other is agent:
                continue
            self._add(active, base, rotate(agent, other.x, other.y))
            base += self._offset
            active.append(base + _relative_heading(agent, other))
            if other.carrying_shelf:
                active.append(base + 4)
                if other.carrying_shelf.id in requested:
                    active.append(base + 5)
            base += 6
        carriers = {a.carrying_shelf.id: a for a in warehouse.agents if a.carrying_shelf}
        seen = [(rotate(agent, shelf.x, shelf.y), shelf.id) for shelf in warehouse.request_queue]
        for offset, shelf_id in sorted(seen, key=lambda item: _nearness(item[0])):
            self._add(active, base, offset)
            base += self._offset
            carrier = carriers.get(shelf_id)
            if carrier is not None:
                active.append(base + (0 if carrier is agent else 1))
            base += 2
        for offset in sorted((rotate(agent, x, y) for x, y in empties), key=_nearness):
            self._add(active, base, offset)
            base += self._offset
        return active

    def _own(self, agent: Agent, requested: set[int]) -> list[int]:
        warehouse = self._warehouse
        height, width = warehouse.grid_size
        active = [agent.x, width + agent.y, width + height + agent.dir.value]
        base = width + height + 4
        below = int(warehouse.grid[SHELF_LAYER, agent.y, agent.x])
        flags = (
            agent.carrying_shelf is not None,
            agent.carrying_shelf is not None and agent.carrying_shelf.id in requested,
            bool(warehouse.highways[agent.y, agent.x]),
            below > 0 and agent.carrying_shelf is None,
            below in requested,
        )
        active += [base + i for i, flag in enumerate(flags) if flag]
        return active

    def _add(self, active: list[int], base: int, offset: tuple[int, int]) -> None:
        ahead, right = offset
        active.append(base + ahead + self._reach)
        active.append(base + self._offset // 2 + right + self._reach)


class Maps(StateEncoder):
    """One shared view: a grid of requests, a grid of empty slots and a grid per robot's cell.

    The grids are followed, per robot, by its heading (one-hot), whether it carries a shelf and
    whether that shelf is requested.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        self._slots = shelf_slots(warehouse)
        height, width = warehouse.grid_size
        self._cells = height * width
        self.dim = (2 + warehouse.n_agents) * self._cells + 6 * warehouse.n_agents

    def encode(self) -> npt.NDArray[np.uint8]:
        """Return (1, dim) uint8."""
        warehouse = self._warehouse
        width = warehouse.grid_size[1]
        requested = self._requested()
        active = [shelf.y * width + shelf.x for shelf in warehouse.request_queue]
        active += [self._cells + y * width + x for x, y in empty_slots(warehouse, self._slots)]
        base = 2 * self._cells
        for agent in warehouse.agents:
            active.append(base + agent.y * width + agent.x)
            base += self._cells
        for agent in warehouse.agents:
            active.append(base + agent.dir.value)
            if agent.carrying_shelf:
                active.append(base + 4)
                if agent.carrying_shelf.id in requested:
                    active.append(base + 5)
            base += 6
        state = np.zeros((1, self.dim), dtype=np.uint8)
        state[0, active] = 1
        return state


class Coordinates(StateEncoder):
    """One shared view: coordinates scaled to [0, 1], one-hot headings, loads as flags.

    Per robot x, y, heading (4), carrying, carrying a requested shelf; per request x, y.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        self.dim = 8 * warehouse.n_agents + 2 * warehouse.request_queue_size

    def encode(self) -> npt.NDArray[np.float32]:
        """Return (1, dim) float32."""
        warehouse = self._warehouse
        height, width = warehouse.grid_size
        requested = self._requested()
        values: list[float] = []
        for agent in warehouse.agents:
            load = agent.carrying_shelf
            values += [agent.x / (width - 1), agent.y / (height - 1)]
            values += [float(agent.dir.value == heading) for heading in range(4)]
            values += [float(load is not None), float(load is not None and load.id in requested)]
        for shelf in warehouse.request_queue:
            values += [shelf.x / (width - 1), shelf.y / (height - 1)]
        return np.array([values], dtype=np.float32)


class AlberDice(StateEncoder):
    """The layout of AlberDICE's recorded data: (x, y, heading) per robot, (x, y) per request."""

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        self.dim = 3 * warehouse.n_agents + 2 * warehouse.request_queue_size

    def encode(self) -> npt.NDArray[np.float32]:
        """Return (1, dim) float32: cells and RWARE's heading numbers, unscaled."""
        values: list[int] = []
        for agent in self._warehouse.agents:
            values += [agent.x, agent.y, agent.dir.value]
        for shelf in self._warehouse.request_queue:
            values += [shelf.x, shelf.y]
        return np.array([values], dtype=np.float32)


ENCODINGS: dict[str, type[StateEncoder]] = {
    "entities": Entities,
    "maps": Maps,
    "coordinates": Coordinates,
    "alberdice": AlberDice,
}


def _relative_heading(agent: Agent, other: Agent) -> int:
    return (CLOCKWISE[other.dir.value] - CLOCKWISE[agent.dir.value]) % 4


def _nearness(offset: tuple[int, int]) -> tuple[int, int, int]:
    """Return a sort key: walking distance, then position in the agent's frame."""
    ahead, right = offset
    return abs(ahead) + abs(right), -ahead, -right
