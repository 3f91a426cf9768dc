"""Pictures of a warehouse."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import rware  # noqa: F401  (registers the environments)
from PIL import ImageColor

from mads4.envs import rware_render
from mads4.envs.rware_render import render


@pytest.fixture
def warehouse() -> Any:
    env = gymnasium.make("rware-tiny-2ag-v2").unwrapped
    env.reset(seed=1)
    place(env, 0, 0, 0, "UP")
    place(env, 1, 4, 4, "LEFT")
    return env


def place(env: Any, index: int, x: int, y: int, heading: str) -> None:
    agent = env.agents[index]
    agent.x, agent.y, agent.dir = x, y, type(agent.dir)[heading]
    env._recalc_grid()


def cell(picture: np.ndarray, x: int, y: int, side: int = 24) -> np.ndarray:
    left = (picture.shape[1] - 10 * side) // 2 + x * side
    top = rware_render._MARGIN + y * side
    return picture[top : top + side, left : left + side]


def share(pixels: np.ndarray, color: str) -> float:
    near = np.abs(pixels.astype(int) - ImageColor.getrgb(color)).max(-1) < 12
    return float(near.mean())


def test_shape_type_and_determinism(warehouse: Any) -> None:
    plain = render(warehouse, legend=False)
    assert plain.dtype == np.uint8
    assert plain.shape == (11 * 24 + 16, 10 * 24 + 16, 3)
    np.testing.assert_array_equal(plain, render(warehouse, legend=False))
    small = render(warehouse, cell=12)
    assert small.shape[1] == 240


def test_goals_shelves_and_robots_are_drawn_in_place(warehouse: Any) -> None:
    picture = render(warehouse)
    for x, y in warehouse.goals:
        assert share(cell(picture, x, y), rware_render.GOAL) > 0.5
    requested = {(s.x, s.y) for s in warehouse.request_queue}
    for shelf in warehouse.shelfs:
        color = rware_render.SHELF
        if (shelf.x, shelf.y) in requested:
            color = rware_render.REQUESTED
        assert share(cell(picture, shelf.x, shelf.y), color) > 0.3
    for agent in warehouse.agents:
        assert share(cell(picture, agent.x, agent.y), rware_render.ROBOT) > 0.2


@pytest.mark.parametrize(
    ("heading", "half"),
    [
        ("UP", np.s_[:12, :]),
        ("DOWN", np.s_[12:, :]),
        ("LEFT", np.s_[:, :12]),
        ("RIGHT", np.s_[:, 12:]),
    ],
)
def test_the_nose_points_ahead(warehouse: Any, heading: str, half: Any) -> None:
    place(warehouse, 0, 4, 2, heading)
    robot = np.all(cell(render(warehouse), 4, 2) == ImageColor.getrgb(rware_render.ROBOT), -1)
    assert robot[half].sum() > robot.sum() / 2


def test_carrying_shows(warehouse: Any) -> None:
    shelf = warehouse.shelfs[0]
    place(warehouse, 0, shelf.x, shelf.y, "UP")
    beneath = cell(render(warehouse), shelf.x, shelf.y)
    warehouse.agents[0].carrying_shelf = shelf
    carrying = cell(render(warehouse), shelf.x, shelf.y)
    assert share(carrying, rware_render.ROBOT) > share(beneath, rware_render.ROBOT) + 0.1
