"""RWARE as an environment."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import EnvFactory, make_env
from mads4.envs.rware import RwareEnv, Scenario
from mads4.errors import UserError

LAYOUT = """
    .......
    .xx.xx.
    .xx.xx.
    .......
    ...g...
"""


def digest(scenario: str, seed: int, steps: int = 200) -> str:
    """Hash everything an episode of random actions shows."""
    env = RwareEnv(scenario)
    rng = np.random.default_rng(seed)
    found = hashlib.sha256()
    now = env.reset(seed)
    for _ in range(steps):
        for array in (now.observation, now.state, now.available_actions):
            found.update(array.tobytes())
        found.update(repr((now.reward, now.done)).encode())
        now = env.step(rng.integers(5, size=env.spec.n_agents))
    return found.hexdigest()


def test_same_seed_and_actions_give_the_same_trajectory_in_any_process() -> None:
    here = digest("tiny-2ag", 3)
    assert digest("tiny-2ag", 3) == here
    assert digest("tiny-2ag", 4) != here
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(digest, "tiny-2ag", 3).result() == here


def test_a_reset_forgets_the_episode_before() -> None:
    env = RwareEnv("tiny-4ag")
    first = env.reset(5)
    for _ in range(30):
        env.step(np.ones(4, dtype=np.int64))
    again = env.reset(5)
    np.testing.assert_array_equal(first.observation, again.observation)
    np.testing.assert_array_equal(first.state, again.state)


@pytest.mark.parametrize("encoding", ["entities", "maps", "coordinates", "alberdice"])
@pytest.mark.parametrize("scenario", ["tiny-2ag", "small-3ag-hard", "medium-2ag-easy"])
def test_every_step_has_the_sizes_of_the_spec(scenario: str, encoding: str) -> None:
    env = RwareEnv(scenario, state_encoding=encoding)
    spec = env.spec
    assert isinstance(env, MultiAgentEnv)
    assert spec.obs_dim == 71
    for now in (env.reset(0), env.step(np.zeros(spec.n_agents, dtype=np.int64))):
        assert now.observation.shape == (spec.n_agents, 71)
        assert now.observation.dtype == np.float32
        rows = spec.n_agents if spec.state_per_agent else 1
        assert now.state.shape == (rows, spec.state_dim)
        assert now.available_actions.shape == (spec.n_agents, spec.n_actions)
        assert now.available_actions.all()


def test_the_time_limit_truncates_and_does_not_terminate() -> None:
    env = RwareEnv("tiny-2ag", options={"max_steps": 7})
    assert env.spec.episode_limit == 7
    assert not env.reset(0).done
    wait = np.zeros(2, dtype=np.int64)
    ends = [env.step(wait) for _ in range(7)]
    assert [now.truncated for now in ends] == [False] * 6 + [True]
    assert not any(now.terminated for now in ends)


def deliver_at_once(env: RwareEnv, robot: int) -> None:
    """Put a requested shelf on `robot`'s back, one cell before a goal that it faces."""
    warehouse = env.warehouse
    x, y = warehouse.goals[robot]
    agent, shelf = warehouse.agents[robot], warehouse.request_queue[0]
    agent.x, agent.y = x, y - 1
    agent.dir = type(agent.dir).DOWN
    shelf.x, shelf.y = x, y - 1
    agent.carrying_shelf = shelf
    others = [other for other in warehouse.agents if other is not agent]
    for place, other in enumerate(others):
        other.x, other.y = place, 0
    warehouse._recalc_grid()


@pytest.mark.parametrize("robot", [0, 1])
def test_deliveries_count_the_shelves_of_all_robots(robot: int) -> None:
    env = RwareEnv("tiny-2ag")
    env.reset(0)
    deliver_at_once(env, robot)
    now = env.step(np.array([int(robot == 0), int(robot == 1)]))
    assert now.reward == 1.0
    assert now.metrics == {"deliveries": 1.0}
    assert env.step(np.zeros(2, dtype=np.int64)).metrics == {"deliveries": 0.0}


@pytest.mark.parametrize(("robot", "paid"), [(0, 1.0), (1, 0.0)])
def test_alberdice_pays_the_deliveries_of_robot_0_only(robot: int, paid: float) -> None:
    env = RwareEnv("tiny-2ag", reward="alberdice")
    env.reset(0)
    deliver_at_once(env, robot)
    for shelf in env.warehouse.request_queue[1:]:
        shelf.x, shelf.y = 8, 8  # far from both robots
    now = env.step(np.array([int(robot == 0), int(robot == 1)]))
    shaping = now.reward - paid
    assert 0.0 <= shaping <= 0.006  # a new request may happen to be near
    assert now.metrics == {"deliveries": 1.0}


@pytest.mark.parametrize(
    ("offset", "carries", "shaping"),
    [((0, 0), False, 0.003), ((0, 0), True, 0.006), ((1, 1), False, 0.001), ((2, 0), False, 0.0)],
)
def test_alberdice_shapes_by_robot_0_s_distance_to_requests(
    offset: tuple[int, int], carries: bool, shaping: float
) -> None:
    env = RwareEnv("tiny-2ag", reward="alberdice")
    env.reset(1)
    near, far = env.warehouse.request_queue
    agent = env.warehouse.agents[0]
    far.x, far.y = 8, 8
    near.x, near.y = 2, 3
    agent.x, agent.y = 2 + offset[0], 3 + offset[1]
    agent.carrying_shelf = near if carries else None
    env.warehouse._recalc_grid()
    assert env.step(np.zeros(2, dtype=np.int64)).reward == pytest.approx(shaping)


def test_a_layout_of_the_user_s_own() -> None:
    env = RwareEnv("tiny-2ag", options={"layout": LAYOUT})
    assert env.warehouse.grid_size == (5, 7)
    assert env.warehouse.goals == [(3, 4)]
    now = env.reset(0)
    assert now.state.shape == (2, env.spec.state_dim)
    assert len(env.warehouse.shelfs) == 8


def test_scenarios_say_size_robots_and_requests() -> None:
    assert Scenario.parse("small-4ag-hard") == Scenario("small", 4, "hard")
    queue = {
        text: Scenario.parse(text).warehouse_options()["request_queue_size"]
        for text in ("tiny-2ag", "tiny-2ag-easy", "tiny-4ag-hard", "tiny-1ag-hard")
    }
    assert queue == {"tiny-2ag": 2, "tiny-2ag-easy": 4, "tiny-4ag-hard": 2, "tiny-1ag-hard": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scenario": "tiny"}, ["tiny", "<agents>ag"]),
        ({"scenario": "tiny-0ag"}, ["tiny-0ag"]),
        ({"scenario": "tinny-2ag"}, ["tinny", "Did you mean 'tiny'"]),
        ({"scenario": "tiny-2ag-hart"}, ["hart", "Did you mean 'hard'"]),
        ({"reward": "delivery"}, ["delivery", "deliveries, alberdice", "Did you mean"]),
        ({"state_encoding": "map"}, ["env.state_encoding", "Did you mean 'maps'"]),
        ({"options": {"n_robots": 3}}, ["env.options", "n_robots"]),
        ({"options": {"layout": "..\n..x"}}, ["env.options", "rectangular"]),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make_env("rware", **arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_environment_of_the_user_s_own_is_checked() -> None:
    factory = "mads4.envs.rware:RwareEnv"
    env = EnvFactory("custom", {"factory": factory, "options": {"scenario": "tiny-3ag"}})()
    assert env.spec.n_agents == 3
    bad = {
        "json": "package.module:function",
        "no.such.module:make": "no.such.module",
        "json:load_all": "has no function 'load_all'",
        "builtins:dict": "a property spec",
        "mads4.envs.rware:Scenario.parse": "has no function",
    }
    for path, words in bad.items():
        with pytest.raises(UserError) as caught:
            make_env("custom", factory=path)
        assert words in str(caught.value), str(caught.value)
    stored = EnvFactory("custom", {"factory": factory, "options": {}})
    assert EnvFactory.from_dict(stored.to_dict(), factory) == stored
    for allowed in (None, "json:loads"):
        with pytest.raises(UserError, match=f"not imported.*give env_factory={factory}"):
            EnvFactory.from_dict(stored.to_dict(), allowed)
    with pytest.raises(UserError, match="refuses"):
        make_env("custom", factory=factory, options={"size": 3})
    with pytest.raises(UserError, match=r"custom, .*, rware"):
        make_env("starcraft")
