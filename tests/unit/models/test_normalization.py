from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fake_env import SPEC
from fakes import make_batch, make_policy
from mads4.models.embedding import InputEmbedding

NAMES = ("observation_mean", "observation_std", "state_mean", "state_std")


@pytest.mark.parametrize("state_per_agent", [False, True])
def test_each_agent_has_statistics_of_its_own(state_per_agent: bool) -> None:
    spec = replace(SPEC, state_per_agent=state_per_agent)
    torch.manual_seed(0)
    shared, own = InputEmbedding(spec, 8), InputEmbedding(spec, 8, normalization="per_agent")
    own.load_state_dict(shared.state_dict() | {n: getattr(own, n) for n in NAMES})
    n, rows = spec.n_agents, spec.n_agents if state_per_agent else 1
    statistics = {
        "observation_mean": torch.randn(n, spec.obs_dim),
        "observation_std": torch.rand(n, spec.obs_dim) + 0.5,
        "state_mean": torch.randn(rows, spec.state_dim),
        "state_std": torch.rand(rows, spec.state_dim) + 0.5,
    }
    own.set_normalization(statistics)
    batch = make_batch(spec)
    inputs = (batch.observation, batch.state, batch.previous_action, batch.return_to_go)
    scaled = (
        (batch.observation - statistics["observation_mean"]) / statistics["observation_std"],
        (batch.state - statistics["state_mean"]) / statistics["state_std"],
        *inputs[2:],
    )
    found = own(*inputs)
    torch.testing.assert_close(found, shared(*scaled))
    alone = own(
        batch.observation[:, :, 1:2],
        batch.state[:, :, 1:2] if state_per_agent else batch.state,
        batch.previous_action[:, :, 1:2],
        batch.return_to_go,
        torch.tensor([1]),
    )
    torch.testing.assert_close(alone[:, :, 0], found[:, :, 1])


def test_equal_statistics_per_agent_are_shared_ones() -> None:
    shared = make_policy()
    own = make_policy(normalization="per_agent")
    assert own.embedding.observation_mean.shape == (SPEC.n_agents, SPEC.obs_dim)
    with torch.no_grad():
        torch.testing.assert_close(own(make_batch()), shared(make_batch()))


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(ValueError, match=r"(?s)normalization.*'shared' or 'per_agent'.*'mine'"):
        make_policy(normalization="mine")
