"""Qualities: the noise that brings data into a band, found by a pilot."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mads4.behavior.greedy import Greedy
from mads4.behavior.noise import Noisy, Random
from mads4.behavior.planner import CooperativePlanner
from mads4.behavior.quality import BANDS, noise_range
from mads4.behavior.registry import BehaviorFactory, behavior_names, make_behavior
from mads4.behavior.smax import BuiltIn, FocusFire
from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.types import EnvSpec, IntArray, TimeStep
from recorded import record_episode


class Buttons:
    """Pays for action 1, the square of the share of agents that press it; 40 steps."""

    spec = EnvSpec("buttons", "two", 2, 1, 1, 5, 40, "share")

    def reset(self, seed: int) -> TimeStep:
        self._steps = 0
        return self._now(0.0)

    def step(self, actions: IntArray) -> TimeStep:
        self._steps += 1
        return self._now(float((actions == 1).mean() ** 2))

    def _now(self, reward: float) -> TimeStep:
        return TimeStep(
            np.zeros((2, 1)),
            np.zeros((1, 1)),
            np.ones((2, 5), bool),
            reward,
            truncated=self._steps == 40,
        )

    def render(self) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Presser:
    """Presses the same button always: 1 is the expert for `Buttons`."""

    def __init__(self, button: int = 1) -> None:
        self._button = button

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        pass

    def act(self, now: TimeStep) -> IntArray:
        return np.full(2, self._button)

    def metrics(self) -> dict[str, float]:
        return {}


def mean_score(
    env: MultiAgentEnv, behavior: BehaviorPolicy, bounds: tuple[float, float], episodes: int
) -> float:
    returns = [record_episode(env, behavior, 7, k).episode_return for k in range(episodes)]
    return float((np.mean(returns) - bounds[0]) / (bounds[1] - bounds[0]))


@pytest.mark.parametrize("quality", BANDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_data_land_in_the_band(quality: str, seed: int) -> None:
    plan = noise_range(Buttons, Presser, quality, seed, episodes=20)
    low, high = BANDS[quality]
    assert low <= plan.normalized_score <= high
    assert 0.0 <= plan.low < plan.high <= 1.0
    assert (plan.low == 0.0) == (quality == "expert")
    assert plan.expert_return == 40.0
    behavior = Noisy(Presser(), plan.low, plan.high)
    score = mean_score(Buttons(), behavior, (plan.random_return, plan.expert_return), 60)
    assert low <= score <= high


def test_the_plan_depends_on_the_seed_and_not_on_the_workers() -> None:
    make_env = EnvFactory("rware", {"scenario": "tiny-2ag", "options": {"max_steps": 40}})
    make_expert = BehaviorFactory("greedy")
    one = noise_range(make_env, make_expert, "good", 3, episodes=2)
    assert noise_range(make_env, make_expert, "good", 3, episodes=2, workers=2) == one
    assert noise_range(make_env, make_expert, "good", 4, episodes=2) != one


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"expert, good, medium, poor.*Did you mean 'medium'"):
        noise_range(Buttons, Presser, "mediun", 0)
    with pytest.raises(UserError, match="no quality can be defined"):
        noise_range(Buttons, lambda: Presser(0), "good", 0, episodes=1)


def test_behaviors_by_name() -> None:
    kinds = {name: type(make_behavior(name)) for name in behavior_names()}
    assert kinds == {
        "focus_fire": FocusFire,
        "greedy": Greedy,
        "heuristic": BuiltIn,
        "planner": CooperativePlanner,
        "random": Random,
    }
    with pytest.raises(UserError, match="Did you mean 'greedy'"):
        make_behavior("gredy")
    factory = pickle.loads(pickle.dumps(BehaviorFactory("greedy", 0.1, 0.3)))
    assert isinstance(factory(), Noisy)
    assert isinstance(BehaviorFactory("planner")(), CooperativePlanner)


def test_a_behavior_of_the_users_own() -> None:
    factory = pickle.loads(pickle.dumps(BehaviorFactory(f"{__name__}:Presser", 0.1, 0.3)))
    assert isinstance(make_behavior(f"{__name__}:Presser"), Presser)
    assert isinstance(factory(), Noisy)
    plan = noise_range(Buttons, BehaviorFactory(f"{__name__}:Presser"), "good", 0, episodes=20)
    assert plan.expert_return == 40.0
    with pytest.raises(UserError, match=r"dataset.behavior_policy: .*'Press'.*Presser"):
        make_behavior(f"{__name__}:Press")


@pytest.mark.slow
@pytest.mark.parametrize("quality", BANDS)
@pytest.mark.parametrize("scenario", ["tiny-2ag", "small-4ag"])
def test_warehouse_data_land_in_the_band(scenario: str, quality: str) -> None:
    make_env = EnvFactory("rware", {"scenario": scenario})
    plan = noise_range(make_env, Greedy, quality, 0, workers=2)
    low, high = BANDS[quality]
    behavior = BehaviorFactory("greedy", plan.low, plan.high)()
    score = mean_score(make_env(), behavior, (plan.random_return, plan.expert_return), 40)
    assert low <= score <= high
