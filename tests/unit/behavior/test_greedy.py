"""The greedy expert: what it reaches, that nothing hidden decides, and that nobody gets stuck."""

from __future__ import annotations

import numpy as np
import pytest
from rware.warehouse import Direction, Warehouse

from mads4.behavior.greedy import Greedy
from mads4.behavior.motion import FORWARD, TOGGLE
from mads4.behavior.noise import Noisy
from mads4.envs.protocol import BehaviorPolicy
from mads4.envs.rware import RwareEnv
from mads4.errors import UserError
from recorded import record_episode

AISLE = """
    ......
    .xxxx.
    .xxxx.
    .xxxx.
    .xxxx.
    .xxxx.
    ......
    ..gg..
"""


def mean_deliveries(scenario: str, behavior: BehaviorPolicy, episodes: int) -> tuple[float, float]:
    """Return mean and minimum."""
    env = RwareEnv(scenario)
    returns = [record_episode(env, behavior, 0, k).episode_return for k in range(episodes)]
    return float(np.mean(returns)), min(returns)


@pytest.mark.parametrize(
    ("scenario", "least"), [("tiny-2ag", 29), ("tiny-4ag", 59), ("tiny-2ag-hard", 22)]
)
def test_deliveries(scenario: str, least: float) -> None:
    mean, worst = mean_deliveries(scenario, Greedy(), 3)
    assert mean >= least
    assert worst >= 0.85 * least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "least"),
    [("tiny-2ag", 30), ("tiny-4ag", 62), ("tiny-6ag", 94), ("small-2ag", 20.5), ("small-4ag", 41)],
)
def test_no_episode_freezes(scenario: str, least: float) -> None:
    mean, worst = mean_deliveries(scenario, Greedy(), 20)
    assert mean >= least
    assert worst >= 0.8 * mean


def test_the_same_episode_gives_the_same_decisions() -> None:
    env = RwareEnv("tiny-4ag")
    first = record_episode(env, Greedy(), 1, 0)
    again = record_episode(RwareEnv("tiny-4ag"), Greedy(), 1, 0)
    np.testing.assert_array_equal(first.action, again.action)


def test_decisions_follow_from_the_present_state() -> None:
    """A policy that takes over in the middle decides as the one that was there all the time."""
    env = RwareEnv("tiny-2ag")
    env.reset(3)
    veteran = Greedy()
    veteran.reset(env, np.random.default_rng(0))
    same = 0
    for _ in range(200):
        newcomer = Greedy()
        newcomer.reset(env, np.random.default_rng(1))
        action = veteran.act()
        same += int((newcomer.act() == action).all())
        env.step(action)
    assert same >= 197  # apart from the rare random move of a robot that waited too long


def test_it_recovers_from_mistakes() -> None:
    mean, worst = mean_deliveries("tiny-2ag", Noisy(Greedy(), 0.1, 0.1), 3)
    assert mean >= 23
    assert worst >= 19


def situation(
    *robots: tuple[int, int, Direction, bool], slots: tuple[int, int] = (8, 11)
) -> tuple[RwareEnv, Greedy]:
    """Place robots; those with a load carry the shelf that stood in one of `slots`."""
    env = RwareEnv(f"tiny-{len(robots)}ag", options={"layout": AISLE})
    env.reset(0)
    warehouse: Warehouse = env.warehouse
    warehouse.request_queue = [warehouse.shelfs[slot] for slot in slots[: len(robots)]]
    for k, (x, y, heading, loaded) in enumerate(robots):
        agent = warehouse.agents[k]
        agent.x, agent.y, agent.dir = x, y, heading
        if loaded:
            agent.carrying_shelf = warehouse.request_queue[k]
            agent.carrying_shelf.x, agent.carrying_shelf.y = x, y
    warehouse._recalc_grid()
    greedy = Greedy()
    greedy.reset(env, np.random.default_rng(0))
    return env, greedy


def test_it_loads_where_a_request_stands() -> None:
    env, greedy = situation((0, 0, Direction.UP, False))
    shelf, agent = env.warehouse.request_queue[0], env.warehouse.agents[0]
    agent.x, agent.y = shelf.x, shelf.y
    assert greedy.act().tolist() == [TOGGLE]


def test_the_nearer_robot_takes_a_request() -> None:
    env, greedy = situation((0, 3, Direction.RIGHT, False), (1, 3, Direction.RIGHT, False))
    shelves = env.warehouse.shelfs
    at = {(s.x, s.y): s for s in shelves}
    env.warehouse.request_queue = [at[3, 3], at[2, 5]]
    moves = greedy.act()
    assert moves[1] == FORWARD  # two steps from (3, 3); the other one wants (2, 5)
    for _ in range(40):
        env.step(greedy.act())
    assert {(a.carrying_shelf is not None) for a in env.warehouse.agents} == {True} or (
        len({s.id for s in env.warehouse.request_queue} & {at[3, 3].id, at[2, 5].id}) < 2
    )


@pytest.mark.parametrize("slots", [(8, 11), (8, 16), (9, 10)])
def test_robots_that_meet_in_an_aisle_pass(slots: tuple[int, int]) -> None:
    """Both have loads and want past each other in a single lane.

    The other's empty slot is between the two, behind the other, or (9, 10) nowhere to be reached.
    """
    env, greedy = situation((0, 2, Direction.DOWN, True), (0, 4, Direction.UP, True), slots=slots)
    env.warehouse.request_queue[1] = env.warehouse.shelfs[0]
    assert sum(env.step(greedy.act()).reward for _ in range(60)) >= 1


def test_a_queue_makes_room_for_one_that_comes_out_of_a_slot() -> None:
    """The robot in the slot can only come out where another waits to get in."""
    env, greedy = situation((1, 3, Direction.LEFT, True), (0, 3, Direction.RIGHT, True))
    inside, outside = env.warehouse.agents
    env.warehouse.request_queue = [inside.carrying_shelf, env.warehouse.shelfs[0]]
    for _ in range(12):
        env.step(greedy.act())
        if (inside.x, inside.y) != (1, 3):
            break
    assert (inside.x, inside.y) == (0, 3)
    assert (outside.x, outside.y) != (0, 3)


def test_another_environment_is_refused() -> None:
    with pytest.raises(UserError, match="RWARE warehouses only, not object"):
        Greedy().reset(object(), np.random.default_rng(0))
