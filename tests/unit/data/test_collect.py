from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recording_fakes
from recording_fakes import SPEC, Deadly, Faulty, Make, Refusing, WalkEnv, Wanderer

from mads4.data.collect import collect
from mads4.data.shards import OPEN_PARTS
from mads4.data.store import read_dataset, read_header
from mads4.envs.seeding import environment_seed
from mads4.errors import UserError
from mads4.types import IntArray, TimeStep
from process_table import PATIENCE, gone, wait_for
from recorded import record_episode

EPISODES = 12
DESCRIPTION = {"kind": "wanderer"}


def record(path: Path, episodes: int = EPISODES, seed: int = 3, **options: object) -> Path:
    options = {"behavior": DESCRIPTION, "flush_seconds": 0.0} | options
    make_behavior = options.pop("make_behavior", Wanderer)
    return collect(WalkEnv, make_behavior, episodes, seed, path, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("undisturbed") / "walk.h5")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


class SeededEnv(WalkEnv):
    def __init__(self) -> None:
        self.seeds: list[int] = []

    def reset(self, seed: int) -> TimeStep:
        self.seeds.append(seed)
        return super().reset(seed)


def test_an_episode_is_what_was_played() -> None:
    episode = record_episode(WalkEnv(), Wanderer(), 3, 5)
    env, rng = SeededEnv(), np.random.default_rng([3, 5])
    record_episode(env, Wanderer(), 3, 5)
    # An evaluation with the same seed must not start where the recording did.
    assert env.seeds != [environment_seed(3, 5)]
    step = env.reset(env.seeds[0])
    behavior = Wanderer()
    behavior.reset(env, rng)
    for t in range(episode.length):
        np.testing.assert_array_equal(episode.observation[t], step.observation)
        np.testing.assert_array_equal(episode.state[t], step.state)
        np.testing.assert_array_equal(episode.available_actions[t], step.available_actions)
        np.testing.assert_array_equal(episode.action[t], behavior.act(step))
        step = env.step(episode.action[t])
        assert episode.reward[t] == step.reward
    assert step.done and episode.terminated == step.terminated
    assert episode.truncated == step.truncated
    np.testing.assert_array_equal(episode.last_observation, step.observation)
    np.testing.assert_array_equal(episode.last_state, step.state)
    np.testing.assert_array_equal(episode.last_available_actions, step.available_actions)
    assert episode.metrics == {"walked": float(episode.length), **behavior.metrics()}
    assert episode.seed == 5


class EndlessEnv(WalkEnv):
    def step(self, actions: IntArray) -> TimeStep:
        return replace(super().step(actions), terminated=False, truncated=False)


def test_an_environment_that_never_ends_is_truncated() -> None:
    episode = record_episode(EndlessEnv(), Wanderer(), 0, 0)
    assert episode.length == SPEC.episode_limit
    assert episode.truncated and not episode.terminated


def test_the_file_describes_itself(undisturbed: Path) -> None:
    dataset = read_dataset(undisturbed)
    assert dataset.behavior == {"kind": "wanderer", "seed": 3}
    assert dataset.name == "walk"
    np.testing.assert_array_equal(dataset.table.seed, np.arange(EPISODES))
    np.testing.assert_array_equal(dataset.table.metrics["walked"], dataset.table.length)
    assert len(set(dataset.table.metrics["noise"])) == EPISODES
    assert 0 < dataset.table.terminated.sum() < EPISODES
    assert names(undisturbed.parent) == ["walk.h5"]


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_do_not_change_the_data(workers: int, undisturbed: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = record(
        tmp_path / "walk.h5", workers=workers, on_progress=lambda *call: calls.append(call)
    )
    assert path.read_bytes() == undisturbed.read_bytes()
    assert calls == [(done, EPISODES) for done in range(EPISODES + 1)]


def test_seeds_differ(undisturbed: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "walk.h5", seed=4)
    assert read_header(other).fingerprint != read_header(undisturbed).fingerprint


class StepError(Exception):
    pass


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, StepError])
def test_interrupted_and_resumed_is_as_if_undisturbed(
    workers: int, error: type[BaseException], undisturbed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "walk.h5"

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise error

    with pytest.raises(error):
        record(path, workers=workers, on_progress=interrupt, flush_seconds=99.0)
    assert names(tmp_path) == ["walk.h5.parts"]
    calls: list[int] = []
    record(path, on_progress=lambda done, total: calls.append(done))
    assert calls == list(range(5, EPISODES + 1))
    assert path.read_bytes() == undisturbed.read_bytes()
    assert names(tmp_path) == ["walk.h5"]


def run_script(path: Path, workers: int, pids: Path) -> subprocess.Popen[bytes]:
    arguments = [str(path), str(EPISODES), "3", str(workers), "0.5", str(pids)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, recording_fakes.__file__, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGTERM)]
)
def test_killed_and_resumed_is_as_if_undisturbed(
    workers: int, number: signal.Signals, undisturbed: Path, tmp_path: Path
) -> None:
    path, pids = tmp_path / "walk.h5", tmp_path / "pids"
    pids.mkdir()
    process = run_script(path, workers, pids)
    folder = tmp_path / "walk.h5.parts"
    wait_for(lambda: len(list(folder.glob("episodes-*.h5"))) >= 3)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + 15)
    assert not path.exists()
    # No worker outlives its parent, however that ended.
    wait_for(lambda: all(gone(int(pid)) for pid in names(pids)))
    started: list[int] = []
    record(path, workers=workers, on_progress=lambda done, total: started.append(done))
    assert started[0] >= 3
    assert path.read_bytes() == undisturbed.read_bytes()
    assert names(tmp_path) == ["pids", "walk.h5"]


def test_a_dead_worker_is_reported_and_its_episode_played_again(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    make = Make(Deadly, (("folder", str(deaths)), ("lives", 2)))
    with caplog.at_level(logging.WARNING):
        path = record(tmp_path / "walk.h5", make_behavior=make, workers=2)
    assert path.read_bytes() == undisturbed.read_bytes()
    assert [r.message.count("exit code -9") for r in caplog.records] == [1, 1]


def test_a_deadly_episode_is_given_up(tmp_path: Path) -> None:
    make = Make(Deadly, (("folder", str(tmp_path)), ("lives", 99)))
    with pytest.raises(UserError, match=r"has failed 3 times .*worker.*-9.* fewer workers"):
        record(tmp_path / "walk.h5", make_behavior=make, workers=2)
    assert not (tmp_path / "walk.h5").exists()


def test_errors_in_workers_keep_their_kind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug in the behavior"):
        record(tmp_path / "a.h5", make_behavior=Faulty, workers=2)
    with pytest.raises(UserError, match="no such scenario"):
        record(tmp_path / "b.h5", make_behavior=Refusing, workers=2)
    with pytest.raises(UserError, match="top level of a module"):
        record(tmp_path / "c.h5", make_behavior=lambda: Wanderer(), workers=2)


def test_a_complete_file_is_reused(undisturbed: Path) -> None:
    before = undisturbed.stat().st_mtime_ns
    assert record(undisturbed, make_behavior=Faulty) == undisturbed
    assert undisturbed.stat().st_mtime_ns == before
    assert names(undisturbed.parent) == ["walk.h5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "behavior.seed: now 4, there 3"),
        ({"behavior": {"kind": "other"}}, "behavior.kind: now 'other', there 'wanderer'"),
        ({"episodes": 13}, "episodes: now 13, there 12"),
    ],
)
def test_other_settings_are_told_apart(
    change: dict[str, object], message: str, undisturbed: Path
) -> None:
    with pytest.raises(UserError, match=f"walk.h5 exists .*{message}"):
        record(undisturbed, **change)  # type: ignore[arg-type]


def test_parts_of_other_settings_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "walk.h5"

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(path, on_progress=interrupt)
    with pytest.raises(UserError, match=r"walk.h5.parts holds .* now 4, there 3.* delete"):
        record(path, seed=4)
    # More episodes of the same recording are no other settings.
    record(path, episodes=EPISODES + 3)
    assert len(read_header(path)) == EPISODES + 3


def test_a_damaged_part_is_played_again(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "walk.h5"

    def interrupt(done: int, total: int) -> None:
        if done == 2 * OPEN_PARTS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(path, on_progress=interrupt)
    part = sorted((tmp_path / "walk.h5.parts").glob("episodes-*.h5"))[1]
    part.write_bytes(part.read_bytes()[:-9])
    record(path)
    assert "will be played again" in caplog.text
    assert path.read_bytes() == undisturbed.read_bytes()


def test_a_second_process_waits_for_the_first(undisturbed: Path, tmp_path: Path) -> None:
    path, pids = tmp_path / "walk.h5", tmp_path / "pids"
    pids.mkdir()
    (tmp_path / "walk.h5.parts").mkdir()
    with (tmp_path / "walk.h5.parts" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = run_script(path, 1, pids)
        assert process.stderr is not None and b"waiting" in process.stderr.readline()
        assert names(pids) == []
        path.write_bytes(undisturbed.read_bytes())
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert names(pids) == []


def test_nonsense_is_refused(tmp_path: Path) -> None:
    for options in ({"episodes": 0}, {"seed": -1}, {"workers": -1}):
        with pytest.raises(UserError, match="A recording needs"):
            record(tmp_path / "walk.h5", **options)  # type: ignore[arg-type]
