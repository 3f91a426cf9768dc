"""The cooperative planner: deliveries, determinism, robustness, and its tables of travel times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from rware.warehouse import Direction, RewardType, Warehouse

from mads4.behavior.motion import UNREACHABLE, MotionTables
from mads4.behavior.paths import Reservations, find_path
from mads4.behavior.planner import CooperativePlanner
from mads4.errors import UserError

CORRIDOR = """
xxxxxxxx
........
xxxxxgxx"""
ENCLOSED = """
xxx.
xxx.
xxxg"""
SEALED = """
xxx
xgx
xxx"""


@dataclass
class Env:
    """The part of our RWARE environment that the planner looks at."""

    warehouse: Warehouse


def make(n_agents: int, requests: int, rows: int = 1, layout: str | None = None) -> Env:
    options = {"shelf_columns": 3, "column_height": 8, "shelf_rows": rows, "layout": layout}
    limits = {"max_inactivity_steps": None, "max_steps": 500}
    return Env(
        Warehouse(
            n_agents=n_agents,
            msg_bits=0,
            sensor_range=1,
            request_queue_size=requests,
            reward_type=RewardType.INDIVIDUAL,
            **options,
            **limits,
        )
    )


def play(
    env: Env, seed: int, steps: int, noise: float = 0.0, planner: CooperativePlanner | None = None
) -> tuple[float, list[list[int]]]:
    """Return the deliveries and the planner's proposals, of which some are replaced at random."""
    planner = planner or CooperativePlanner()
    rng = np.random.default_rng(seed)
    env.warehouse.reset(seed=seed)
    planner.reset(env, rng)
    deliveries, proposals = 0.0, []
    for _ in range(steps):
        actions = planner.act()
        assert actions.shape == (env.warehouse.n_agents,) and actions.dtype == np.int64
        proposals.append(actions.tolist())
        replaced = rng.random(len(actions)) < noise
        executed = np.where(replaced, rng.integers(0, 5, len(actions)), actions)
        deliveries += sum(env.warehouse.step(executed.tolist())[1])
    return deliveries, proposals


@pytest.mark.parametrize(("n_agents", "at_least"), [(2, 10), (4, 21), (6, 34)])
def test_delivers_at_the_expected_rate(n_agents: int, at_least: int) -> None:
    """200 steps of seeds 0 to 29 gave at least 11, 23 and 36 deliveries."""
    assert play(make(n_agents, n_agents), seed=1, steps=200)[0] >= at_least


def test_same_state_and_seed_give_the_same_plan() -> None:
    """Caches and the planner's past episodes must not show in what it does."""
    fresh = play(make(4, 4), seed=3, steps=80, noise=0.1)
    used = CooperativePlanner()
    play(make(2, 1, rows=2), seed=0, steps=30, planner=used)
    assert play(make(4, 4), seed=3, steps=80, noise=0.1, planner=used) == fresh


def test_goes_on_from_whatever_noise_made_of_the_state() -> None:
    """With a fifth of the actions replaced the rate falls by about a quarter, no more."""
    assert play(make(4, 4), seed=0, steps=300, noise=0.2)[0] >= 20


def test_robots_never_plan_to_collide() -> None:
    """Without noise every proposed drive is carried out, so no step of a plan is lost."""
    env, planner = make(8, 8), CooperativePlanner()
    env.warehouse.reset(seed=5)
    planner.reset(env, np.random.default_rng(5))
    blocked = 0
    for _ in range(200):
        before = [(agent.x, agent.y) for agent in env.warehouse.agents]
        actions = planner.act().tolist()
        env.warehouse.step(actions)
        after = [(agent.x, agent.y) for agent in env.warehouse.agents]
        blocked += sum(a == 1 and p == q for a, p, q in zip(actions, before, after, strict=True))
    assert blocked == 0


@pytest.mark.parametrize(("layout", "at_least"), [(CORRIDOR, 20), (ENCLOSED, 0), (SEALED, 0)])
def test_any_layout_is_survived(layout: str, at_least: int) -> None:
    """One-lane corridors are cleared of jams; shelves and goals out of reach are no error."""
    assert play(make(4, 3, layout=layout), seed=0, steps=400, noise=0.05)[0] >= at_least


def test_act_before_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match="before reset"):
        CooperativePlanner().act()


def test_other_environments_are_refused() -> None:
    with pytest.raises(UserError, match="RWARE"):
        CooperativePlanner().reset(object(), np.random.default_rng(0))


def test_travel_times_are_those_of_the_simulator() -> None:
    """A lone unloaded robot that follows its path is at the target after just that many steps."""
    env = make(1, 1)
    env.warehouse.reset(seed=0)
    motion = MotionTables.of(env.warehouse)
    agent = env.warehouse.agents[0]
    agent.x, agent.y, agent.dir = 3, 9, Direction.DOWN
    env.warehouse._recalc_grid()
    target = motion.slot_cells[0]
    planned = motion.park(target).steps(4 * motion.cell(agent) + 2)
    env.warehouse.request_queue = [s for s in env.warehouse.shelfs if motion.cell(s) == target]
    planner = CooperativePlanner()
    planner.reset(env, np.random.default_rng(0))
    steps = 0
    while motion.cell(agent) != target:
        env.warehouse.step(planner.act().tolist())
        steps += 1
    assert steps == planned == 1 + 2 + 1 + 8  # turn, two cells left beneath shelves, turn, up


def test_loaded_robots_drive_around_shelves() -> None:
    env = make(1, 1)
    env.warehouse.reset(seed=0)
    motion = MotionTables.of(env.warehouse)
    left, right = 4 * (4 * 10 + 3) + 3, 4 * (4 * 10)  # row 4: heading left at x = 3; at x = 0
    unloaded = min(motion.distances(right + h, loaded=False)[left] for h in range(4))
    loaded = min(motion.distances(right + h, loaded=True)[left] for h in range(4))
    assert unloaded == 3
    assert loaded == 3 + 2 * 4 + 3  # up to row 0 and down again, with three turns
    sealed = make(1, 1, layout=SEALED)
    tables = MotionTables.of(sealed.warehouse)
    assert tables.deliver().steps(0) >= UNREACHABLE


def test_path_gives_way_to_reservations() -> None:
    """Two robots nose to nose in a lane: the second backs off; in a dead end it finds no way."""
    motion = MotionTables(4, [False] * 4, [0, 3])
    reserved = Reservations(12, motion.n_cells)
    first = find_path(motion, 4 * 1 + 1, motion.park(2), reserved)
    assert first is not None and [pose >> 2 for pose in first] == [1] + [2] * 12
    reserved.add(first)
    assert find_path(motion, 4 * 2 + 3, motion.park(0), reserved) is None
    second = find_path(motion, 4 * 3 + 3, motion.park(0), reserved)
    assert second is not None and {pose >> 2 for pose in second} == {3}


@pytest.mark.slow
@pytest.mark.parametrize(("n_agents", "published"), [(2, 31.7), (4, 65.3)])
def test_published_deliveries_are_reached(n_agents: int, published: float) -> None:
    """Mean deliveries per 500 steps on the tiny warehouse, within 5% of the figure or above."""
    env = make(n_agents, n_agents)
    assert np.mean([play(env, seed, steps=500)[0] for seed in range(15)]) >= 0.95 * published
