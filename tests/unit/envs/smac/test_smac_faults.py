"""Games that hang, die, lie, leak or disconnect: recovered, counted, no process left."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import smac_stand_in
from mads4.envs.registry import EnvFactory
from mads4.envs.seeding import environment_seed
from mads4.envs.vector import Incidents, Supervision, VectorEnv
from mads4.errors import UserError
from mads4.evaluation.metrics import RandomPolicy
from mads4.rollout import EpisodeResult, rollout
from mads4.rollout.local import LocalVector
from mads4.rollout.vector import make_vector
from mads4.rollout.workers import WorkerVector
from process_table import assert_gone, end_run, hung

RULES = Supervision(processes=2, pause=0.01)
HASTY = replace(RULES, reset_timeout=6.0, step_timeout=4.0)
"""For games that hang; others are not to be taken for such where the machine is slow."""
EPISODES = 4


def factory(
    folder: Path, faults: list[dict[str, Any]], rules: Supervision = RULES, launches: int = 1
) -> EnvFactory:
    return EnvFactory(
        "smac",
        {
            "scenario": "3m",
            "simulator": "smac_stand_in:StarCraft2Env",
            "relaunch_every": launches,
            "options": {"folder": str(folder), "faults": faults},
        },
        rules,
    )


def play(envs: VectorEnv, episodes: int = EPISODES) -> list[EpisodeResult]:
    played = rollout(RandomPolicy(), envs, episodes, seed=7, target_return=0.0)
    return sorted(played, key=lambda episode: episode.index)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeResult]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with closing(make_vector(factory(folder, []), EPISODES, workers=0)) as envs:
        return play(envs)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert_gone(tmp_path)


@pytest.mark.parametrize(
    ("how", "counted", "reason"),
    [
        ("hang", "processes_lost", "A worker process gave no answer for 4 s"),
        ("hang_reset", "processes_lost", "A worker process gave no answer for 6 s"),
        ("die", "processes_lost", r"A worker process died (exit code -9)"),
        ("crash", "episodes_broken", "An environment failed in step (ConnectionLostError"),
        ("protocol", "episodes_broken", "An environment lost its game in the middle"),
        ("restart", "episodes_broken", "An environment had to relaunch its game"),
        ("lie", "episodes_broken", "An environment says that the battle is won with"),
        ("deny", "episodes_broken", "An environment says that the battle is not won with 3 of 3"),
    ],
)
def test_faults_do_not_change_results(
    how: str,
    counted: str,
    reason: str,
    undisturbed: list[EpisodeResult],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = HASTY if how.startswith("hang") else RULES
    fault = {"how": how} | ({} if how in ("hang_reset", "restart", "deny") else {"at": 3})
    with (
        caplog.at_level(logging.WARNING, "mads4"),
        closing(make_vector(factory(tmp_path, [fault], rules), EPISODES)) as envs,
    ):
        assert isinstance(envs, WorkerVector)
        assert len(envs.buffers.order) == 2, "each game in a process of its own, two at a time"
        played = play(envs)
        assert envs.incidents == Incidents(**{counted: 1})
    assert played == undisturbed
    assert sum(episode.restarts for episode in played) == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(reason)


def test_faults_of_all_kinds_in_one_run(undisturbed: list[EpisodeResult], tmp_path: Path) -> None:
    kinds = (
        ({"how": "die", "at": 1}, {"how": "lie", "at": 2}),
        ({"how": "hang", "at": 1}, {"how": "crash", "at": 2}),
        ({"how": "hang_reset"}, {"how": "protocol", "at": 3}),
        ({"how": "restart"}, {"how": "deny"}),
    )
    assert undisturbed[3].metrics == {"win": 1.0}, "a victory that can be denied"
    faults = [
        fault | {"seed": environment_seed(7, index)}
        for index, pair in enumerate(kinds)
        for fault in pair
    ]
    with closing(make_vector(factory(tmp_path, faults, HASTY), EPISODES)) as envs:
        played = play(envs)
        assert envs.incidents == Incidents(processes_lost=3, episodes_broken=5)
    assert played == undisturbed
    assert [episode.restarts for episode in played] == [2, 2, 2, 2]


def test_broken_episodes_are_played_again_without_processes(
    undisturbed: list[EpisodeResult], tmp_path: Path
) -> None:
    faults = [{"how": "protocol", "at": 2, "times": 2}, {"how": "crash", "at": 4}]
    with closing(make_vector(factory(tmp_path, faults), EPISODES, workers=0)) as envs:
        assert isinstance(envs, LocalVector)
        assert play(envs) == undisturbed
        assert envs.incidents == Incidents(episodes_broken=3)


def test_a_game_that_always_fails_is_given_up(tmp_path: Path) -> None:
    faults = [{"how": "protocol", "at": 1, "times": 99}]
    with (
        closing(make_vector(factory(tmp_path, faults), 1)) as envs,
        pytest.raises(UserError, match=r"^Episode 0 of seed 7 has failed 3 times .*lost its game"),
    ):
        play(envs, 1)
    assert len(list((tmp_path / "games").iterdir())) == 3 * 2, "a launch, and SMAC's own"


def test_a_growing_game_is_replaced_between_episodes(
    undisturbed: list[EpisodeResult], tmp_path: Path
) -> None:
    rules = Supervision(processes=1, memory_mib=250.0)
    leak = [{"how": "leak", "mib": 300}]
    with closing(make_vector(factory(tmp_path, leak, rules), EPISODES)) as envs:
        assert play(envs) == undisturbed
        assert envs.incidents == Incidents(planned_restarts=EPISODES - 1)


def test_a_game_within_its_memory_stays(tmp_path: Path) -> None:
    rules = Supervision(processes=1, memory_mib=1e5)
    with closing(make_vector(factory(tmp_path, [], rules, launches=0), EPISODES)) as envs:
        play(envs)
        assert envs.incidents == Incidents()
    assert len(list((tmp_path / "games").iterdir())) == 1


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from contextlib import closing
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import Supervision
from mads4.rollout.vector import make_vector

if __name__ == "__main__":
    arguments = {arguments!r}
    with closing(make_vector(EnvFactory("smac", arguments, Supervision(processes=2)), 2)) as envs:
        rows = slice(0, 2)
        envs.buffers.order[rows] = 2
        while True:
            envs.send(rows)
            envs.wait(rows)
            envs.buffers.order[rows] = 1
            envs.buffers.action[rows] = 1
"""


@pytest.mark.parametrize("fault", ["hang", None])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_run(
    number: signal.Signals, fault: str | None, tmp_path: Path
) -> None:
    """Ctrl-C or sudden death of the run, its games at work or hung: they and their players end."""
    faults = [{"how": fault, "at": 1, "times": 2}] if fault else []
    endless = {"folder": str(tmp_path), "faults": faults, "enemy_damage": 0.0}
    arguments = factory(tmp_path, []).arguments | {"relaunch_every": 0, "options": endless}
    script = tmp_path / "script.py"
    tests = str(Path(smac_stand_in.__file__).parent)
    script.write_text(SCRIPT.format(tests=tests, arguments=dict(arguments)), encoding="utf-8")
    assert end_run(script, tmp_path, number, lambda: not fault or hung(tmp_path)) == -number
    assert_gone(tmp_path)
