"""Options of sampling and normalization reach what they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_env import SPEC
from fakes import matching_data
from mads4.config import Config, FileDataset, OfflineTrainerConfig
from mads4.config.validation import ConfigError, parse
from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.sampler import SequenceSampler
from mads4.data.store import write_dataset
from mads4.envs.registry import EnvFactory
from mads4.experiment import build
from mads4.models import Mads4Config, MlpConfig

DATA = matching_data(8)
CPU = torch.device("cpu")
OWN = EnvFactory("custom", {"factory": "fake_env:MatchingEnv", "options": {}})


def test_samplers() -> None:
    config = OfflineTrainerConfig(
        batch_size=3, context_length=4, sampling="return", return_temperature=0.1
    )
    found = build.sampler(config, DATA, 7, CPU)
    expected = SequenceSampler(DATA, 3, 4, 7, sampling="return", return_temperature=0.1)
    assert isinstance(found, SequenceSampler)
    assert torch.equal(found.batch(2).observation, expected.batch(2).observation)
    config = OfflineTrainerConfig(batch_size=3, context_length=4, stateful=True)
    walking = build.sampler(config, DATA, 7, CPU)
    assert isinstance(walking, ConsecutiveSampler)
    assert (walking.batch_size, walking.window, walking.seed) == (3, 4, 7)


@pytest.mark.parametrize("in_memory", [True, False])
def test_where_steps_are_kept(
    in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "cache"))
    write_dataset(tmp_path / "data.h5", SPEC, (DATA.episode(k) for k in range(8)))
    config = FileDataset(path=str(tmp_path / "data.h5"), in_memory=in_memory)
    assert build.dataset(config, OWN, progress=False).on_demand is not in_memory


@pytest.mark.parametrize("kind", [Mads4Config, MlpConfig])
def test_each_agent_is_scaled_by_its_own_statistics(kind: Any) -> None:
    policy = build.policy(kind(n_layers=1, d_model=4, normalization="per_agent"), SPEC)
    build.normalize(policy, DATA)
    shown = policy.embedding.observation_mean.numpy()
    assert shown.shape == (SPEC.n_agents, SPEC.obs_dim)
    seen = DATA.observation[DATA.rows()]
    np.testing.assert_allclose(shown[:, 4], seen[..., 4].mean(0), rtol=1e-5)
    assert shown[0, 4] != shown[1, 4]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stateful": True}, "set trainer.context_length"),
        ({"stateful": True, "context_length": 5, "sampling": "return"}, "use uniform"),
        ({"return_temperature": 0.1}, "only used with trainer.sampling=return"),
        ({"sampling": "return", "return_temperature": 0.0}, "expected a number > 0"),
        ({"sampling": "rank"}, "expected one of uniform, length, return"),
    ],
)
def test_impossible_sampling(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse({"trainer": {"name": "offline", **options}}, Config)
