"""Data sets in other projects' formats: found, converted once, compared with the environment."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_env import SPEC
from fakes import matching_data
from mads4.config import FileDataset
from mads4.data.convert import convert
from mads4.data.formats import open_source
from mads4.data.formats.alberdice import AlberdiceDataset, write_alberdice
from mads4.data.formats.madt import MadtDataset, write_madt
from mads4.data.formats.og_marl import OgMarlDataset
from mads4.data.formats.og_marl_write import write_og_marl
from mads4.data.registry import find
from mads4.data.store import read_header, write_dataset
from mads4.envs.matrix_game import MatrixGameConfig
from mads4.envs.protocol import env_spec
from mads4.envs.registry import CustomEnvConfig, EnvFactory
from mads4.envs.rware import RwareConfig
from mads4.errors import UserError
from mads4.experiment import components, datasets
from mads4.experiment.datasets import converted, converted_path
from mads4.types import EnvSpec, Episode

ENV = EnvFactory("custom", {"factory": "fakes:MatchingEnv", "options": {}})


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def episodes(count: int = 5) -> list[Episode]:
    data = matching_data(count)
    return [data.episode(k) for k in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_alberdice(tmp_path / "arrays", SPEC, episodes())


def plain(spec: EnvSpec, count: int = 3, steps: int = 4) -> list[Episode]:
    """Episodes of nothing that fit `spec`."""
    n = spec.n_agents
    return [
        Episode(
            observation=np.zeros((steps, n, spec.obs_dim), np.float32),
            state=np.zeros((steps, n if spec.state_per_agent else 1, spec.state_dim), np.float32),
            available_actions=np.ones((steps, n, spec.n_actions), bool),
            action=np.zeros((steps, n), np.int64),
            reward=np.full(steps, k, np.float32),
            terminated=True,
            truncated=False,
            seed=k,
        )
        for k in range(count)
    ]


def env_like(**spec: Any) -> EnvFactory:
    return EnvFactory("custom", {"factory": "fakes:MatchingEnv", "options": spec})


def test_a_folder_is_converted_once(
    folder: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = AlberdiceDataset(path=str(folder))
    data = datasets.dataset(config, ENV, progress=False)
    (file,) = (data_dir / "converted").glob("*.h5")
    written = file.stat().st_mtime_ns
    assert data.behavior["source"]["count"] == 8
    assert data.spec.differences(SPEC) == []
    with caplog.at_level(logging.INFO):
        again = datasets.dataset(config, ENV, progress=False)
    assert "converted already" in caplog.text
    assert file.stat().st_mtime_ns == written
    assert again.fingerprint == data.fingerprint


def test_a_source_that_changes_is_converted_anew(folder: Path) -> None:
    def path(env: EnvSpec = SPEC) -> Path:
        return converted_path(open_source("alberdice", folder, env))

    first = path()
    assert path() == first
    assert path(replace(SPEC, reward="other")) != first
    facts = (folder / "reward.npy").stat()
    os.utime(folder / "reward.npy", ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert path() != first


def test_of_two_who_want_the_same_only_one_converts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions = []

    def slowly(*args: Any, **kwargs: Any) -> Any:
        conversions.append(threading.get_ident())
        return convert(*args, **kwargs)

    monkeypatch.setattr("mads4.experiment.datasets.convert", slowly)
    recordings = [open_source("alberdice", folder, SPEC) for _ in range(4)]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(converted(one))) for one in recordings
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert len(set(found)) == 1 and len(found) == 4


def test_a_failed_conversion_leaves_nothing_to_be_taken_for_it(
    folder: Path, data_dir: Path
) -> None:
    class Broken:
        def __init__(self, whole: Any) -> None:
            vars(self).update(vars(whole))
            self.whole = whole

        def episodes(self) -> Iterator[Episode]:
            yield next(iter(self.whole.episodes()))
            raise UserError("obs.npy: episode 1 is damaged")

    with pytest.raises(UserError, match="episode 1 is damaged"):
        converted(Broken(open_source("alberdice", folder, SPEC)))
    assert not list((data_dir / "converted").glob("*.h5"))


def test_some_episodes_of_it_are_another_data_set(folder: Path) -> None:
    config = AlberdiceDataset(path=str(folder))
    whole = datasets.dataset(config, ENV, progress=False)
    parts = [
        datasets.dataset(config.model_copy(update={"episodes": k}), ENV, progress=False)
        for k in (2, 3, 3, 5)
    ]
    assert [len(part) for part in parts] == [2, 3, 3, 5]
    assert parts[1].fingerprint == parts[2].fingerprint
    assert parts[3].fingerprint == whole.fingerprint
    assert len({whole.fingerprint, parts[0].fingerprint, parts[1].fingerprint}) == 3


def test_without_a_path_the_registry_is_asked() -> None:
    """…and the sizes of another observation builder are recognized."""
    entry = find("madt/3m-good")
    config = MadtDataset(quality="GOOD")
    oxwhirl = dict(name="smac", scenario="3m", n_agents=3, obs_dim=30, state_dim=48, n_actions=9)
    make_env = env_like(**oxwhirl, episode_limit=60, reward="")
    with pytest.raises(
        UserError, match=r"madt/3m-good is not on this.*put the folder at .*3m/good"
    ):
        datasets.dataset(config, make_env, progress=False)
    spec = replace(
        SPEC,
        **(oxwhirl | {"obs_dim": 64, "state_dim": 81}),
        episode_limit=60,
        reward="",
        state_per_agent=True,
    )
    write_madt(entry.place, spec, plain(spec))
    with pytest.raises(UserError) as caught:
        datasets.dataset(config, make_env, progress=False)
    message = str(caught.value)
    assert "obs_dim: 64 against 30" in message
    assert "64 numbers and states 81 (MAPPO's StarCraft wrapper" in message
    assert "30 numbers and states 48 (SMAC itself (oxwhirl))" in message
    assert "the data's observations (env.observation=mappo), or data recorded" in message
    same = oxwhirl | {"obs_dim": 64, "state_dim": 81}
    fitting = env_like(**same, episode_limit=60, reward="", state_per_agent=True)
    data = datasets.dataset(config, fitting, progress=False)
    assert (len(data), data.behavior["quality"]) == (3, "good")
    assert data.behavior["dataset"] == "madt/3m-good"


def test_the_quality_names_the_vault_s_recording(tmp_path: Path) -> None:
    pytest.importorskip("tensorstore")
    entry = find("og-marl/3m-poor")
    spec = replace(SPEC, name="smac", scenario="3m", reward="")
    for uid, count in (("Good", 3), ("Poor", 2)):
        write_og_marl(entry.place / "smac_v1" / "3m.vlt", spec, plain(spec, count, 14), uid)
    make_env = env_like(name="smac", scenario="3m", reward="")
    assert len(datasets.dataset(OgMarlDataset(quality="poor"), make_env, progress=False)) == 2
    named = OgMarlDataset(path="og-marl/3m-good")
    assert len(datasets.dataset(named, make_env, progress=False)) == 3
    direct = OgMarlDataset(path=str(entry.place / "smac_v1" / "3m.vlt"), uid="good")
    assert len(datasets.dataset(direct, make_env, progress=False)) == 3


@pytest.mark.parametrize(
    ("config", "env", "message"),
    [
        (
            OgMarlDataset(quality="splendid"),
            {"name": "smac", "scenario": "8m"},
            "got 'splendid'.*poor, medium, good",
        ),
        (
            OgMarlDataset(),
            {"name": "smac", "scenario": "5m_vs_6m"},
            "dataset.path=og-marl/5m_vs_6m-good or dataset.path=omiga/5m_vs_6m-good",
        ),
        (MadtDataset(), {"name": "smac", "scenario": "8m"}, "scenario 8m; it has 3m, 5m_vs_6m"),
        (MadtDataset(), {}, "no data set in the format madt for env fake; it has some for smac"),
        (MadtDataset(path="og-marl/3m-good"), {}, "use dataset=og_marl"),
        (OgMarlDataset(path="og-marl/3m-good"), {}, "mads4 data download og-marl/3m-good"),
        (AlberdiceDataset(path="nowhere"), {}, "no file or folder nowhere"),
        (MadtDataset(path="madt/3m-god"), {}, "Did you mean 'madt/3m-good'"),
    ],
)
def test_mistakes(config: Any, env: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        datasets.dataset(config, env_like(**env), progress=False)


def test_the_wrong_kind_of_data_set_names_the_right_one(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "own.h5", SPEC, plain(SPEC))
    for config, message in (
        (FileDataset(path=str(folder)), "use dataset=alberdice"),
        (MadtDataset(path=str(tmp_path / "own.h5")), "use dataset=file"),
    ):
        with pytest.raises(UserError, match=message):
            datasets.dataset(config, env_like(), progress=False)


def test_how_rewards_are_defined_is_told(tmp_path: Path) -> None:
    options = {"options": {"max_steps": 6}}
    needed = components.environment(
        RwareConfig(reward="alberdice", state_encoding="alberdice", **options)
    )
    spec = env_spec(needed)
    folder = write_alberdice(tmp_path / "rware", spec, plain(spec, steps=6))
    config = AlberdiceDataset(path=str(folder))
    with pytest.raises(UserError, match=r"The data need env.reward=alberdice env.state_encoding="):
        datasets.dataset(config, components.environment(RwareConfig(**options)), progress=False)
    assert len(datasets.dataset(config, needed, progress=False)) == 3


@pytest.mark.parametrize(
    ("said", "unknown"),
    [
        ({}, "name, scenario, reward, state_encoding"),
        ({"name": "fake", "scenario": "matching"}, "reward, state_encoding"),
        ({"name": "fake", "scenario": "matching", "reward": "of mine"}, "state_encoding"),
    ],
)
def test_all_that_data_do_not_say_is_asked_for_at_once(
    said: dict[str, str], unknown: str, folder: Path, tmp_path: Path
) -> None:
    recording = open_source("alberdice", folder)
    recording.spec = replace(recording.spec, **said)
    convert(recording, tmp_path / "nameless.h5")
    make_env = env_like(reward="of mine", state_encoding="plain")
    with pytest.raises(UserError) as caught:
        datasets.dataset(FileDataset(path=str(tmp_path / "nameless.h5")), make_env, progress=False)
    options = "--env fake --scenario matching --reward 'of mine' --state-encoding plain."
    assert f"is not known ({unknown})." in str(caught.value)
    assert str(caught.value).endswith(f"convert them again with {options}")


def test_data_of_another_environment_are_not_asked_to_be_of_this_one(
    folder: Path, tmp_path: Path
) -> None:
    recording = open_source("alberdice", folder)
    recording.spec = replace(recording.spec, name="other")
    convert(recording, tmp_path / "other.h5")
    config = FileDataset(path=str(tmp_path / "other.h5"))
    with pytest.raises(UserError, match="name: 'other' against 'fake'") as caught:
        datasets.dataset(config, ENV, progress=False)
    assert "convert" not in str(caught.value)


def test_another_game_s_payoffs_are_found_in_a_file_as_well(tmp_path: Path) -> None:
    make_env = components.environment(MatrixGameConfig(episode_limit=4))
    spec = env_spec(make_env)
    folder = write_alberdice(tmp_path / "game", spec, plain(spec))
    convert(open_source("alberdice", folder, spec), tmp_path / "game.h5")
    assert read_header(tmp_path / "game.h5").spec.reward == spec.reward
    with pytest.raises(UserError, match=r"joint action \[0, 0\] earned 1 there, here it earns 0"):
        datasets.dataset(FileDataset(path=str(tmp_path / "game.h5")), make_env, progress=False)


def test_custom_environments_are_compared_too(folder: Path) -> None:
    make_env = components.environment(
        CustomEnvConfig(factory="fakes:MatchingEnv", options={"obs_dim": 9})
    )
    with pytest.raises(UserError, match=r"obs_dim: 5 against 9.*observations have 5 numbers"):
        datasets.dataset(AlberdiceDataset(path=str(folder)), make_env, progress=False)
