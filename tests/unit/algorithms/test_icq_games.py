"""ICQ on penalty XOR, whose fixed points are known, and with any policy and any state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fake_env import SPEC
from fakes import make_batch
from mads4.algorithms.base import Context
from mads4.algorithms.icq import ICQ, ICQConfig
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler
from mads4.envs.matrix_game import CONSTANT, PENALTY_XOR
from mads4.models import Mads4Policy, MlpPolicy, SequencePolicy
from mads4.types import EnvSpec, Episode, PolicyInput

GAME = EnvSpec("matrix_game", "2x2", 2, 4, 4, 2, 50, "payoff")
SETTINGS = ICQConfig(
    learning_rate=3e-3,
    critic_learning_rate=1e-2,
    critic_width=32,
    target_update_interval=20,
    warmup_steps=0,
    weight_decay=0.0,
)


@pytest.mark.parametrize("normalization", ["shared", "per_agent"])
@pytest.mark.parametrize("state_per_agent", [False, True])
@pytest.mark.parametrize("kind", [Mads4Policy, MlpPolicy])
def test_any_policy_and_any_state(
    kind: type[SequencePolicy], state_per_agent: bool, normalization: str
) -> None:
    spec = replace(SPEC, state_per_agent=state_per_agent)
    sizes = {"n_layers": 1, "d_model": 8} | ({"d_state": 4} if kind is Mads4Policy else {})
    policy = kind(spec, normalization=normalization, **sizes)
    algorithm = ICQ(policy, SETTINGS, Context(seed=0, device=torch.device("cpu"), steps=4))
    batch = make_batch(spec)
    for step, state in enumerate((batch.state, (batch.state > 0).to(torch.uint8))):
        given = replace(batch, state=state)
        found = algorithm.update(given, policy.sequence(given), step)
        assert all(bool(value.isfinite()) for value in found.values()), found
        assert 0.0 < found["effective_samples"] <= 1.0 + 1e-5


def game_data(pairs: Sequence[tuple[int, int]], episodes: int = 30, steps: int = 50) -> Dataset:
    """Repeated penalty XOR; every joint action is drawn from `pairs`, each equally often."""
    rng = np.random.default_rng(0)
    constant = np.array(CONSTANT, np.float32)
    recorded = []
    for number in range(episodes):
        action = np.array(pairs)[rng.integers(len(pairs), size=steps)]
        recorded.append(
            Episode(
                observation=np.tile(constant, (steps, 2, 1)),
                state=np.tile(constant, (steps, 1, 1)),
                available_actions=np.ones((steps, 2, 2), bool),
                action=action,
                reward=np.array(PENALTY_XOR, np.float32)[action[:, 0], action[:, 1]],
                terminated=False,
                truncated=True,
                seed=number,
            )
        )
    return Dataset.from_episodes(GAME, recorded)


@torch.no_grad()
def played(policy: SequencePolicy, games: int = 100) -> Tensor:
    """Return how often each joint action (2, 2) is sampled in whole episodes, as shares."""
    policy.eval()
    draws = torch.Generator().manual_seed(1)
    constant = torch.tensor(CONSTANT, dtype=torch.float32)
    state, counts = policy.initial_state(games), torch.zeros(2, 2)
    for _ in range(GAME.episode_limit):
        inputs = PolicyInput(
            observation=constant.expand(games, 2, 4),
            state=constant.expand(games, 1, 4),
            available_actions=torch.ones(games, 2, 2, dtype=torch.bool),
            return_to_go=torch.zeros(games),
            uniform=torch.rand(games, 2, generator=draws, dtype=torch.float64),
        )
        decision, state = policy.step(inputs, state)
        first, second = decision.action.T
        counts += torch.bincount(2 * first + second, minlength=4).view(2, 2)
    return counts / counts.sum()


GOOD_AND_IDLE = [(0, 0), (0, 1), (1, 0)]
"""Joint actions of AlberDICE's ``buffer_00_02_20``. Additive values of them fit with
Q_i(1) - Q_i(0) = 2: whatever the other agent does, action 1 seems better by 2."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("autoregressive", "temperature", "expected"),
    [
        # Two weights of exp(2 / .1): both choose 1, the worst joint action (a return of -100).
        (False, 0.1, [[0.0, 0.0], [0.0, 1.0]]),
        # A chain never leaves the data: p(1) = e² / (e² + 2), then p(1 | 0) = e² / (e² + 1).
        (True, 1.0, [[0.025, 0.188], [0.787, 0.0]]),
    ],
)
def test_penalty_xor(autoregressive: bool, temperature: float, expected: list[list[float]]) -> None:
    torch.manual_seed(0)
    policy: SequencePolicy = MlpPolicy(GAME, n_layers=1, d_model=16, return_conditioning=False)
    if autoregressive:
        policy = Mads4Policy(
            GAME,
            n_layers=1,
            d_model=16,
            d_state=8,
            dropout=0.0,
            message="none",
            autoregressive=True,
            return_conditioning=False,
        )
    settings = SETTINGS.model_copy(update={"advantage_temperature": temperature})
    steps = 500
    algorithm = ICQ(policy, settings, Context(seed=0, device=torch.device("cpu"), steps=steps))
    sampler = SequenceSampler(game_data(GOOD_AND_IDLE), 10, seed=0)
    for step in range(steps):
        batch = sampler.batch(step)
        algorithm.update(batch, policy.sequence(batch), step)
    torch.testing.assert_close(played(policy), torch.tensor(expected), rtol=0, atol=0.03)
