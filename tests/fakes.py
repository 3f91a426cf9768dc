"""Small environments, data sets and policies that tests, and worker processes, can import."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fake_env import SPEC, MatchingEnv
from mads4.data.dataset import Dataset
from mads4.models import Mads4Policy, MlpPolicy
from mads4.types import (
    EnvSpec,
    Episode,
    PolicyInput,
    SequenceBatch,
    returns_to_go,
)

SMALL: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 8,
    "d_state": 6,
    "message_dim": 3,
    "dropout": 0.0,
}


def matching_episode(index: int, env: MatchingEnv | None = None) -> Episode:
    """One episode of an expert that answers rightly."""
    env = env or MatchingEnv()
    now = env.reset(10_000 + index)
    before, actions, rewards = [], [], []
    while not now.done:
        before.append(now)
        actions.append(now.observation[:, : env.spec.n_actions].argmax(-1))
        now = env.step(actions[-1])
        rewards.append(now.reward)
    return Episode(
        observation=np.stack([step.observation for step in before]),
        state=np.stack([step.state for step in before]),
        available_actions=np.stack([step.available_actions for step in before]),
        action=np.stack(actions).astype(np.int64),
        reward=np.array(rewards, np.float32),
        terminated=now.terminated,
        truncated=now.truncated,
        seed=index,
    )


def matching_data(episodes: int = 8, bad: bool = False) -> Dataset:
    """A data set as a user's reader would return it; `bad` raises."""
    if bad:
        raise KeyError("a bug in the user's reader")
    recorded = [matching_episode(k) for k in range(episodes)]
    return Dataset.from_episodes(
        SPEC, recorded, {"name": "answers", "share": np.float32(1.0)}, "matching"
    )


def make_policy(
    spec: EnvSpec = SPEC, dtype: torch.dtype = torch.float64, seed: int = 0, **options: Any
) -> Mads4Policy:
    """A small policy with a normalization that matters and logits that differ."""
    torch.manual_seed(seed)
    policy = Mads4Policy(spec, **(SMALL | options))
    policy.embedding.set_normalization(
        {
            "observation_mean": torch.randn(spec.obs_dim),
            "observation_std": torch.rand(spec.obs_dim) + 0.5,
            "state_mean": torch.randn(spec.state_dim),
            "state_std": torch.rand(spec.state_dim) + 0.5,
            "return_scale": torch.tensor(7.0),
        }
    )
    with torch.no_grad():
        policy.head.weight.mul_(3.0)
    return policy.to(dtype).eval()


def make_batch(
    spec: EnvSpec = SPEC, batch: int = 3, steps: int = 12, seed: int = 0, padded: bool = True
) -> SequenceBatch:
    """Random trajectories, the later rows of which are padded at the end."""
    rng = np.random.default_rng(seed)
    n = spec.n_agents
    states = n if spec.state_per_agent else 1
    action = rng.integers(0, spec.n_actions, (batch, steps, n))
    available = rng.random((batch, steps, n, spec.n_actions)) < 0.6
    np.put_along_axis(available, action[..., None], True, axis=-1)
    previous = np.full_like(action, -1)
    previous[:, 1:] = action[:, :-1]
    lengths = np.array([steps - 2 * row * padded for row in range(batch)])
    mask = np.arange(steps) < lengths[:, None]
    reward = np.where(mask, rng.integers(0, 3, (batch, steps)), 0).astype(np.float32)
    available[~mask] = True
    action[~mask] = 0
    previous[~mask] = 0
    observation = rng.normal(size=(batch, steps, n, spec.obs_dim)).astype(np.float32)
    observation[~mask] = 0.0
    state = rng.normal(size=(batch, steps, states, spec.state_dim)).astype(np.float32)
    arrays = {
        "observation": observation,
        "state": state,
        "available_actions": available,
        "action": action,
        "previous_action": previous,
        "return_to_go": returns_to_go(reward),
        "reward": reward,
        "terminated": np.arange(steps) == lengths[:, None] - 1,
        "follows": np.arange(steps) < lengths[:, None] - 1,
        "mask": mask,
    }
    return SequenceBatch(**{name: torch.from_numpy(value) for name, value in arrays.items()})


def time_step(batch: SequenceBatch, t: int, uniform: torch.Tensor | None = None) -> PolicyInput:
    """What a policy is given at step `t` of recorded trajectories."""
    return PolicyInput(
        observation=batch.observation[:, t],
        state=batch.state[:, t],
        available_actions=batch.available_actions[:, t],
        return_to_go=batch.return_to_go[:, t],
        uniform=uniform,
    )


def small_mlp(spec: EnvSpec, d_model: int = 8) -> MlpPolicy | None:
    """A user's own factory of policies; of no width it returns none."""
    return MlpPolicy(spec, d_model=d_model) if d_model else None
