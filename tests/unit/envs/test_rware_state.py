"""State encodings of a warehouse, compared with a situation worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rware.warehouse import Direction, Warehouse

from mads4.envs.rware import RwareEnv
from mads4.envs.rware_state import ENCODINGS, Entities, empty_slots, rotate, shelf_slots

LAYOUT = """
    .....
    .xx..
    .xx..
    ..g..
"""
WIDTH, HEIGHT, REACH = 5, 4, 4
ONE_HOT = 2 * REACH + 1
"""Length of one of an offset's two one-hot vectors."""


@pytest.fixture
def warehouse() -> Warehouse:
    """Return two robots and four shelves.

    Robot 0 at (1, 1) faces right and carries shelf 0, which is requested; robot 1 at (3, 2)
    faces up, unloaded. Shelves 1 at (2, 1), 2 at (1, 2), 3 at (2, 2); requests: 3 and 0.
    """
    env = RwareEnv("tiny-2ag", options={"layout": LAYOUT})
    env.reset(0)
    made = env.warehouse
    first, second = made.agents
    first.x, first.y, first.dir = 1, 1, Direction.RIGHT
    second.x, second.y, second.dir = 3, 2, Direction.UP
    first.carrying_shelf = made.shelfs[0]
    made.request_queue = [made.shelfs[3], made.shelfs[0]]
    made._recalc_grid()
    return made


def offset(ahead: int, right: int) -> np.ndarray:
    found = np.zeros(2 * ONE_HOT, dtype=np.uint8)
    found[ahead + REACH] = 1
    found[ONE_HOT + right + REACH] = 1
    return found


def one_hot(index: int, length: int) -> np.ndarray:
    return np.eye(length, dtype=np.uint8)[index]


def test_entities_of_the_carrying_robot(warehouse: Warehouse) -> None:
    expected = np.concatenate(
        [
            *(one_hot(1, WIDTH), one_hot(1, HEIGHT), one_hot(Direction.RIGHT.value, 4)),
            # loaded, the load is requested, not on a highway; nothing stands below but the
            # grid shows its own shelf, a requested one
            [1, 1, 0, 0, 1],
            # robot 1, two cells to the right on the map (ahead) and one below (to the right)
            *(offset(2, 1), one_hot(3, 4), [0, 0]),
            # nearest first: the shelf on its own back, then shelf 3
            *(offset(0, 0), [1, 0]),
            *(offset(1, 1), [0, 0]),
            # the one empty slot is where it took its shelf from; no second one
            *(offset(0, 0), np.zeros(2 * ONE_HOT)),
        ]
    )
    np.testing.assert_array_equal(Entities(warehouse).encode()[0], expected)


def test_entities_of_the_other_robot(warehouse: Warehouse) -> None:
    expected = np.concatenate(
        [
            *(one_hot(3, WIDTH), one_hot(2, HEIGHT), one_hot(Direction.UP.value, 4)),
            [0, 0, 1, 0, 0],
            # robot 0: one cell up (ahead), two to the left; turned right, loaded, requested
            *(offset(1, -2), one_hot(1, 4), [1, 1]),
            # shelf 3 directly to its left; then the one that robot 0 carries
            *(offset(0, -1), [0, 0]),
            *(offset(1, -2), [0, 1]),
            *(offset(1, -2), np.zeros(2 * ONE_HOT)),
        ]
    )
    np.testing.assert_array_equal(Entities(warehouse).encode()[1], expected)


def test_a_turn_of_the_head_turns_the_view(warehouse: Warehouse) -> None:
    agent = warehouse.agents[0]  # at (1, 1); the cell (3, 0) is two to the right, one up
    seen = {}
    for heading in Direction:
        agent.dir = heading
        seen[heading.name] = rotate(agent, 3, 0)
    assert seen == {"UP": (1, 2), "DOWN": (-1, -2), "LEFT": (-2, 1), "RIGHT": (2, -1)}


def test_maps(warehouse: Warehouse) -> None:
    cells = WIDTH * HEIGHT
    state = ENCODINGS["maps"](warehouse).encode()[0]
    grids = state[: 4 * cells].reshape(4, HEIGHT, WIDTH)
    places = [[(int(x), int(y)) for y, x in np.argwhere(grid)] for grid in grids]
    assert places == [[(1, 1), (2, 2)], [(1, 1)], [(1, 1)], [(3, 2)]]
    assert state[4 * cells :].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_coordinates_are_scaled_to_the_grid(warehouse: Warehouse) -> None:
    state = ENCODINGS["coordinates"](warehouse).encode()
    robots = [1 / 4, 1 / 3, 0, 0, 0, 1, 1, 1, 3 / 4, 2 / 3, 1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(state, [[*robots, 2 / 4, 2 / 3, 1 / 4, 1 / 3]], rtol=1e-6)
    assert state.dtype == np.float32


def test_alberdice_is_raw_numbers(warehouse: Warehouse) -> None:
    state = ENCODINGS["alberdice"](warehouse).encode()
    assert state.tolist() == [[1, 1, 3, 3, 2, 0, 2, 2, 1, 1]]


def test_slots_are_empty_where_no_shelf_stands(warehouse: Warehouse) -> None:
    slots = shelf_slots(warehouse)
    assert slots == {(1, 1), (2, 1), (1, 2), (2, 2)}
    assert empty_slots(warehouse, slots) == {(1, 1)}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("scenario", ["tiny-2ag", "tiny-6ag", "small-3ag-easy"])
def test_encodings_keep_size_and_type(encoding: str, scenario: str) -> None:
    env = RwareEnv(scenario, state_encoding=encoding)
    rng = np.random.default_rng(0)
    now = env.reset(2)
    for _ in range(150):
        assert now.state.shape[1] == env.spec.state_dim
        if encoding in ("entities", "maps"):
            assert now.state.dtype == np.uint8
            assert now.state.max() == 1
        now = env.step(rng.choice([1, 1, 2, 3, 4], size=env.spec.n_agents))
