"""Noise: how much of it, in bursts of what length, and that it touches nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mads4.behavior.noise import BURST, Noisy, Random, random_actions
from mads4.envs.protocol import MultiAgentEnv
from mads4.types import EnvSpec, IntArray, TimeStep

N_AGENTS, N_ACTIONS = 3, 1000
INTENDED = N_ACTIONS  # not an action, so that random ones cannot be mistaken for it


class Stub:
    """What a behavior policy asks an environment for."""

    spec = EnvSpec("stub", "one", N_AGENTS, 1, 1, N_ACTIONS, 100, "none")


FREE = TimeStep(
    np.zeros((N_AGENTS, 1), dtype=np.float32),
    np.zeros((1, 1), dtype=np.float32),
    np.ones((N_AGENTS, N_ACTIONS), dtype=np.bool_),
)


class Steady:
    """Always intends the same."""

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        pass

    def act(self, now: TimeStep) -> IntArray:
        return np.full(N_AGENTS, INTENDED)

    def metrics(self) -> dict[str, float]:
        return {"steady": 1.0}


def play(low: float, high: float, steps: int, seed: int = 0) -> tuple[Noisy, IntArray]:
    noisy = Noisy(Steady(), low, high)
    noisy.reset(Stub(), np.random.default_rng(seed))
    return noisy, np.stack([noisy.act(FREE) for _ in range(steps)])


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7, 0.95])
def test_the_share_of_random_actions_is_the_rate(rate: float) -> None:
    _, actions = play(rate, rate, 20_000)
    share = (actions != INTENDED).mean(axis=0)
    # 20 000 steps in bursts: about 20 000 / (2 * BURST) independent draws at least
    tolerance = 5 * np.sqrt(rate * (1 - rate) * 2 * max(BURST, BURST * rate / (1 - rate)) / 20_000)
    assert np.abs(share - rate).max() < tolerance


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.7])
def test_bursts_last_three_steps_on_average(rate: float) -> None:
    _, actions = play(rate, rate, 30_000)
    wrong = actions[:, 0] != INTENDED
    starts = int((wrong[1:] & ~wrong[:-1]).sum())
    length = wrong.sum() / starts
    assert length == pytest.approx(BURST, abs=5 * BURST / np.sqrt(starts))


def test_none_and_nothing_but_noise() -> None:
    assert (play(0.0, 0.0, 500)[1] == INTENDED).all()
    actions = play(1.0, 1.0, 500)[1]
    assert (actions != INTENDED).all()
    assert len(np.unique(actions)) > 500


def test_agents_err_independently() -> None:
    wrong = (play(0.4, 0.4, 20_000)[1] != INTENDED).astype(float)
    off_diagonal = np.corrcoef(wrong.T)[~np.eye(N_AGENTS, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.06


def test_each_episode_has_a_rate_of_its_own_in_the_range_and_tells_it() -> None:
    rates = []
    for seed in range(200):
        noisy, _ = play(0.2, 0.6, 1, seed)
        rates.append(noisy.rate)
        assert noisy.metrics() == {"steady": 1.0, "noise": noisy.rate}
    assert 0.2 <= min(rates) < 0.23
    assert 0.57 < max(rates) <= 0.6
    assert np.mean(rates) == pytest.approx(0.4, abs=0.03)


def test_the_generator_decides_everything() -> None:
    np.testing.assert_array_equal(play(0.2, 0.6, 300, 4)[1], play(0.2, 0.6, 300, 4)[1])
    assert (play(0.2, 0.6, 300, 4)[1] != play(0.2, 0.6, 300, 5)[1]).any()


def test_random_actions_are_uniform() -> None:
    behavior = Random()
    behavior.reset(Stub(), np.random.default_rng(0))
    actions = np.stack([behavior.act(FREE) for _ in range(20_000)])
    assert actions.shape == (20_000, N_AGENTS)
    counts = np.bincount(actions.ravel() // 200, minlength=5)
    assert np.abs(counts / counts.sum() - 0.2).max() < 0.01
    assert behavior.metrics() == {}


def test_random_actions_are_available_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        available = rng.random((N_AGENTS, N_ACTIONS)) < 0.3
        available[:, rng.integers(N_ACTIONS)] = True
        now = TimeStep(FREE.observation, FREE.state, available)
        actions = random_actions(now, rng)
        assert available[np.arange(N_AGENTS), actions].all()
    lone = np.zeros((N_AGENTS, N_ACTIONS), dtype=np.bool_)
    lone[:, [0, N_ACTIONS - 1]] = True
    drawn = [random_actions(TimeStep(FREE.observation, FREE.state, lone), rng) for _ in range(4000)]
    assert np.mean(np.stack(drawn) == 0) == pytest.approx(0.5, abs=0.03)
