"""What supervision is asked for: pauses, counts, the memory of a group of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fake_env import DeadlyEnvs, FragileEnv, MatchingEnv, SupervisedEnvs
from mads4.envs.seeding import environment_seed
from mads4.envs.vector import Incidents, Supervision, VectorEnv
from mads4.evaluation.metrics import RandomPolicy
from mads4.rollout import EpisodeResult, rollout
from mads4.rollout.local import LocalVector
from mads4.rollout.processes import group_memory
from mads4.rollout.vector import make_vector
from mads4.rollout.workers import WorkerVector
from mads4.types import PolicyInput


def test_pauses_double_and_have_an_end() -> None:
    rules = Supervision(pause=0.5)
    assert [rules.delay(failures) for failures in range(5)] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert rules.delay(10_000) == 60.0


def test_incidents_are_counted_from_a_moment_on() -> None:
    incidents = Incidents(2, 1, 0)
    before = replace(incidents)
    incidents.planned_restarts += 3
    assert incidents.since(before).to_dict() == {
        "processes_lost": 0,
        "episodes_broken": 0,
        "planned_restarts": 3,
    }


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no process table to read")
def test_a_groups_memory_is_that_of_all_its_processes() -> None:
    script = "import sys; held = bytearray(100 << 20); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True, **pipes) as game:
        assert game.stdout is not None
        game.stdout.readline()
        held = group_memory(game.pid)
        game.communicate()
    assert held is not None
    assert 100 << 20 < held < 200 << 20
    assert group_memory(game.pid) == 0, "it has ended"


def play(envs: VectorEnv, episodes: int) -> list[EpisodeResult]:
    played = rollout(RandomPolicy(), envs, episodes, seed=3, target_return=0.0)
    return sorted(played, key=lambda episode: episode.index)


@pytest.fixture(scope="module")
def expected() -> Iterator[list[EpisodeResult]]:
    yield play(LocalVector([MatchingEnv()]), 4)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_episodes_of_any_environment_are_played_again(
    workers: int, expected: list[EpisodeResult]
) -> None:
    with closing(make_vector(FragileEnv, 2, workers=workers)) as envs:
        assert play(envs, 4) == expected
        assert envs.incidents == Incidents(episodes_broken=4)


def test_supervised_environments_have_a_process_each(expected: list[EpisodeResult]) -> None:
    with closing(make_vector(SupervisedEnvs(), 8)) as envs:
        assert isinstance(envs, WorkerVector)
        assert len(envs.buffers.order) == 3
        assert play(envs, 4) == expected
    with closing(make_vector(SupervisedEnvs(), 2, workers=0)) as envs:
        assert isinstance(envs, LocalVector)


def test_a_lost_process_is_replaced_after_longer_and_longer_pauses(
    expected: list[EpisodeResult], tmp_path: Path
) -> None:
    times = {}
    for pause in (0.0, 1.0):
        folder = tmp_path / str(pause)
        folder.mkdir()
        rules = Supervision(processes=1, pause=pause)
        began = time.monotonic()
        with closing(
            make_vector(DeadlyEnvs(environment_seed(3, 0), str(folder), rules), 1)
        ) as envs:
            assert play(envs, 1) == expected[:1]
            assert envs.incidents == Incidents(processes_lost=2)
        times[pause] = time.monotonic() - began
    assert times[1.0] > 1.0 + 2.0


def test_random_actions_are_available_and_even() -> None:
    generator = torch.Generator().manual_seed(0)
    available = torch.tensor([[[True, False, True, True], [False, True, False, False]]])
    available = available.expand(6000, 2, 4)
    inputs = partial(
        PolicyInput,
        observation=torch.zeros(6000, 2, 1),
        state=torch.zeros(6000, 1, 1),
        available_actions=available,
        return_to_go=torch.zeros(6000),
    )
    uniform = torch.rand(6000, 2, generator=generator, dtype=torch.float64)
    decision, _ = RandomPolicy().step(inputs(uniform=uniform), None)
    assert (decision.action[:, 1] == 1).all()
    counts = np.bincount(decision.action[:, 0], minlength=4)
    assert counts[1] == 0
    np.testing.assert_allclose(counts[[0, 2, 3]], 2000, atol=150)
    assert torch.isneginf(decision.logits[~available]).all()
    nearly_one = torch.full((6000, 2), 1.0 - 2.0**-53, dtype=torch.float64)
    decision, _ = RandomPolicy().step(inputs(uniform=nearly_one), None)
    assert decision.action[0].tolist() == [3, 1]
