"""From configuration to objects: names, files, devices, statistics, and refusals."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import SPEC, MatchingEnv, make_batch, matching_data
from mads4.config import Config, CustomDataset, FileDataset, GeneratedDataset, OfflineTrainerConfig
from mads4.data.files import data_directory
from mads4.data.store import read_header, write_dataset
from mads4.envs.protocol import env_spec
from mads4.envs.registry import CustomEnvConfig, EnvFactory
from mads4.envs.rware import RwareConfig
from mads4.errors import UserError
from mads4.experiment import components, datasets, recordings
from mads4.models import Mads4Config

OWN = CustomEnvConfig(factory="fakes:MatchingEnv", options={"masked": False})
RANDOM = GeneratedDataset(behavior_policy="random", episodes=3, num_workers=1)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path))
    return tmp_path


def test_devices() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert components.device("auto").type == expected
    assert components.device("cpu", threads=1) == torch.device("cpu")
    assert torch.get_num_threads() == 1


def test_a_device_that_is_not_there() -> None:
    name = f"cuda:{torch.cuda.device_count() + 3}"
    with pytest.raises(UserError, match=f"device: '{name}' is not available here.*device=auto"):
        components.device(name)


def test_environments() -> None:
    spec = env_spec(components.environment(RwareConfig(options={"max_steps": 33})))
    assert (spec.name, spec.scenario, spec.episode_limit) == ("rware", "tiny-2ag", 33)
    assert env_spec(components.environment(OWN)) == SPEC


def test_where_data_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADS4_DATA_DIR", "~/somewhere")
    assert data_directory() == Path.home() / "somewhere"
    monkeypatch.delenv("MADS4_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_directory() == Path("/cache/mads4")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_directory() == Path.home() / ".cache/mads4"


def path_of(env: RwareConfig | CustomEnvConfig, data: GeneratedDataset) -> Path:
    make_env = components.environment(env)
    return recordings.generated_path(make_env, env_spec(make_env), data)


def test_everything_that_changes_a_recording_changes_its_file(data_dir: Path) -> None:
    env, data = RwareConfig(), GeneratedDataset()
    path = path_of(env, data)
    assert path == data_dir / "rware-tiny-2ag-greedy-expert-1000-seed0-deliveries-entities.h5"
    others = [
        path_of(env.model_copy(update=change), data)
        for change in (
            {"scenario": "tiny-3ag"},
            {"reward": "alberdice"},
            {"state_encoding": "maps"},
            {"options": {"max_steps": 40}},
            {"options": {"request_queue_size": 4}},
        )
    ]
    others += [
        path_of(env, data.model_copy(update=change))
        for change in (
            {"behavior_policy": "planner"},
            {"behavior_policy": "random"},
            {"quality": "poor"},
            {"episodes": 7},
            {"seed": 1},
        )
    ]
    assert len({path, *others}) == 1 + len(others)
    assert path_of(env, data.model_copy(update={"workers": 2, "validation_fraction": 0.5})) == path
    assert path_of(env, data.model_copy(update={"path": "~/my.h5"})) == Path.home() / "my.h5"


def test_a_recording_is_made_once(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_env = components.environment(OWN)
    path = recordings.record(make_env, RANDOM, progress=False)
    assert path.parent == data_dir
    header, written = read_header(path), path.stat().st_mtime_ns
    assert len(header) == 3
    assert header.behavior == {"name": "random", "seed": 0, "options": {"masked": False}}
    with caplog.at_level(logging.INFO):
        assert recordings.record(make_env, RANDOM, progress=False) == path
    assert "reusing the data set" in caplog.text
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "change", [{"episodes": 4}, {"seed": 9}, {"env": {"masked": False, "scenario": "other"}}]
)
def test_another_recording_is_never_taken_for_the_one_asked_for(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """One file name, other settings: neither reused nor overwritten."""
    fixed = RANDOM.model_copy(update={"path": str(tmp_path / "mine.h5")})
    recordings.record(components.environment(OWN), fixed, progress=False)
    env = OWN.model_copy(update={"options": change.pop("env", OWN.options)})
    with pytest.raises(UserError, match=r"mine.h5 exists and was recorded with other settings"):
        recordings.record(
            components.environment(env), fixed.model_copy(update=change), progress=False
        )


def test_options_that_leave_the_spec_alone_count_as_well(tmp_path: Path) -> None:
    fixed = RANDOM.model_copy(update={"path": str(tmp_path / "mine.h5")})
    recordings.record(components.environment(OWN), fixed, progress=False)
    slower = OWN.model_copy(update={"options": {"masked": False, "fail_at": 10_000}})
    with pytest.raises(UserError, match="other settings"):
        recordings.record(components.environment(slower), fixed, progress=False)


def test_files_and_readers(tmp_path: Path) -> None:
    data = matching_data(5)
    path = tmp_path / "own.h5"
    write_dataset(path, SPEC, [data.episode(k) for k in range(5)])
    make_env = components.environment(OWN)
    stored = datasets.dataset(FileDataset(path=str(path)), make_env, progress=False)
    reader = CustomDataset(factory="fakes:matching_data", options={"episodes": 5})
    read = datasets.dataset(reader, make_env, progress=False)
    assert stored.fingerprint == read.fingerprint == data.fingerprint
    with pytest.raises(UserError, match=r"own.h5 and the environment do not fit together"):
        datasets.dataset(FileDataset(path=str(path)), EnvFactory("rware", {}), progress=False)
    with pytest.raises(UserError, match=r"missing.h5"):
        datasets.dataset(FileDataset(path=str(tmp_path / "missing.h5")), make_env, progress=False)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_such_module:read", "cannot import 'no_such_module' .*No module named"),
        ("fakes:read", "'fakes' has no function 'read'"),
        ("fakes:matching_episode", "refuses {}: TypeError: missing a required argument: 'index'"),
        ("fakes:make_batch", "returned SequenceBatch, expected mads4.data.dataset.Dataset"),
    ],
)
def test_readers_that_are_none(factory: str, message: str) -> None:
    with pytest.raises(UserError, match=f"dataset.factory.*{message}"):
        datasets.dataset(
            CustomDataset(factory=factory), components.environment(OWN), progress=False
        )


def test_bugs_in_a_reader_are_not_hidden() -> None:
    reader = CustomDataset(factory="fakes:matching_data", options={"bad": True})
    with pytest.raises(KeyError, match="a bug"):
        datasets.dataset(reader, components.environment(OWN), progress=False)


def test_every_model_option_reaches_the_policy() -> None:
    options = Mads4Config(
        n_layers=2,
        d_model=8,
        d_state=4,
        dropout=0.25,
        parameterization="dplr",
        discretization="bilinear",
        dt_min=0.01,
        dt_max=0.02,
        stateless=True,
        message_dim=5,
        return_conditioning=False,
        use_global_state=False,
        use_previous_action=False,
    )
    policy = components.policy(options, SPEC)
    assert len(policy.stack.blocks) == 2
    block: Any = policy.stack.blocks[0]
    assert block.dropout == 0.25
    assert block.s4.ssm.parameterization == "dplr"
    assert block.s4.ssm.discretization == "bilinear"
    assert block.s4.ssm.stateless
    step = block.s4.ssm.log_dt.exp()
    assert 0.0099 < step.min() <= step.max() < 0.0201
    assert policy.channel.width == 5
    assert components.policy(Mads4Config(message="none"), SPEC).channel.width == 0
    embedding = policy.embedding
    assert embedding.return_to_go is embedding.state is embedding.previous_action is None
    with pytest.raises(UserError, match=r"model: parameterization=dplr cannot"):
        components.policy(Mads4Config(parameterization="dplr"), SPEC)


def test_normalization_is_that_of_the_training_episodes() -> None:
    training, _ = matching_data(8).split(0.25, 0)
    policy = components.policy(Mads4Config(n_layers=1, d_model=4, d_state=2), SPEC)
    components.normalize(policy, training)
    rows = training.observation[training.rows()].reshape(-1, SPEC.obs_dim)
    embedding = policy.embedding
    shown = embedding.observation_mean.numpy()
    assert (shown[:4] == 0).all(), "features of 0 and 1 stay as they are"
    np.testing.assert_allclose(shown[4], rows[:, 4].mean(), rtol=1e-5)
    np.testing.assert_allclose(embedding.observation_std.numpy()[4], rows[:, 4].std(), rtol=1e-4)
    assert embedding.state_mean.eq(0).all()
    assert embedding.state_std.eq(1).all()
    assert float(embedding.return_scale) == np.abs(training.returns).max()


def test_data_without_any_reward_do_not_divide_by_zero() -> None:
    data = matching_data(3)
    nothing = replace(data, table=replace(data.table, episode_return=np.zeros(3)))
    policy = components.policy(Mads4Config(n_layers=1, d_model=4, d_state=2), SPEC)
    components.normalize(policy, nothing)
    silent = make_batch()
    silent = replace(silent, return_to_go=torch.zeros_like(silent.return_to_go))
    logits = policy(silent)
    assert logits[silent.available_actions].isfinite().all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_checkpoints_policy_acts_as_the_trained_one(precision: str) -> None:
    config = Mads4Config(n_layers=1, d_model=8, d_state=4, dropout=0.5)
    trained = components.policy(config, SPEC)
    components.normalize(trained, matching_data(4))
    payload = {
        "model": config.model_dump(mode="json"),
        "spec": SPEC.to_dict(),
        "policy": trained.state_dict(),
    }
    acting = components.trained_policy(payload, precision)
    assert not acting.training
    assert acting.head.weight.dtype == getattr(torch, precision)
    assert trained.head.weight.dtype == torch.float32
    batch = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(acting(batch).float(), trained.eval()(batch))


def test_the_trainers_numbers_arrive() -> None:
    config = OfflineTrainerConfig(steps=7, save_interval=3, log_interval=4)
    intervals = components.intervals(config)
    assert (intervals.steps, intervals.log, intervals.keep) == (7, 4, 3)
    assert (intervals.validation, intervals.checkpoint) == (500, 500)


def test_defaults_build() -> None:
    config = Config()
    spec = env_spec(components.environment(config.env))
    assert components.policy(config.model, spec).spec == spec
    assert isinstance(components.environment(OWN)(), MatchingEnv)
