"""Recording games that hang, die, fail and grow: as if undisturbed, and incidents are counted."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import process_table
from mads4.behavior.registry import BehaviorFactory
from mads4.data.collect import STREAM, collect
from mads4.envs.protocol import BehaviorPolicy
from mads4.envs.registry import EnvFactory
from mads4.envs.seeding import environment_seed
from mads4.envs.vector import Incidents, Supervision
from mads4.errors import UserError
from process_table import assert_gone, end_run, hung

EPISODES, SEED = 4, 5
RANDOM = BehaviorFactory("random")
RULES = Supervision(processes=2, pause=0.01)


def record(
    folder: Path,
    *faults: dict[str, Any],
    rules: Supervision = RULES,
    workers: int = 8,
    make_behavior: Callable[[], BehaviorPolicy] = RANDOM,
) -> tuple[Path, list[Incidents]]:
    """Record random battles in ``<folder>/data.h5``; return that, and the incidents reported."""
    arguments = {
        "scenario": "3m",
        "simulator": "smac_stand_in:StarCraft2Env",
        "relaunch_every": 1,
        "options": {"folder": str(folder), "faults": list(faults)},
    }
    incidents: list[Incidents] = []
    path = collect(
        EnvFactory("smac", arguments, rules),
        make_behavior,
        EPISODES,
        SEED,
        folder / "data.h5",
        behavior={"name": "random"},
        workers=workers,
        on_incidents=incidents.append,
    )
    return path, incidents


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same battles, played in this process."""
    return record(tmp_path_factory.mktemp("undisturbed"), workers=0)[0]


def test_games_that_hang_die_and_fail_are_replaced(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One fault in each episode: an episode that met three of them would be given up."""
    faults = (
        {"how": "die", "at": 1},
        {"how": "hang", "at": 2},
        {"how": "protocol", "at": 3},
        {"how": "hang_reset"},
    )
    placed = [
        fault | {"seed": environment_seed(STREAM + SEED, index)}
        for index, fault in enumerate(faults)
    ]
    hasty = replace(RULES, reset_timeout=6.0, step_timeout=4.0)
    with caplog.at_level(logging.WARNING, "mads4"):
        path, incidents = record(tmp_path, *placed, rules=hasty)
    assert path.read_bytes() == undisturbed.read_bytes()
    assert incidents == [Incidents(processes_lost=3, episodes_broken=1)]
    text = caplog.text
    assert "A worker process died (exit code -9); playing episodes 0 again." in text
    assert "A worker process gave no answer for 4 s; playing episodes 1 again." in text
    assert "An environment lost its game in the middle of an episode; playing episodes 2" in text
    assert "A worker process gave no answer for 6 s; playing episodes 3 again." in text
    assert "environments: processes_lost 3, episodes_broken 1, planned_restarts 0" in text


def test_one_worker_is_enough_for_supervision(undisturbed: Path, tmp_path: Path) -> None:
    path, incidents = record(tmp_path, {"how": "die", "at": 2}, workers=1)
    assert path.read_bytes() == undisturbed.read_bytes()
    assert incidents == [Incidents(processes_lost=1)]
    assert len(list((tmp_path / "players").iterdir())) == 2, "one game at a time, replaced once"


def test_a_growing_game_is_replaced_between_episodes(undisturbed: Path, tmp_path: Path) -> None:
    rules = Supervision(processes=1, memory_mib=250.0)
    path, incidents = record(tmp_path, {"how": "leak", "mib": 300}, rules=rules)
    assert path.read_bytes() == undisturbed.read_bytes()
    assert incidents == [Incidents(planned_restarts=EPISODES - 1)]


def test_a_game_that_always_fails_is_given_up_and_what_is_finished_is_kept(
    undisturbed: Path, tmp_path: Path
) -> None:
    rules = Supervision(processes=1, pause=0.01)
    with pytest.raises(
        UserError, match=r"^Episode \d of seed 5 has failed 3 times \(the last time a worker.* -9"
    ):
        record(tmp_path, {"how": "die", "at": 8, "times": 3}, rules=rules)
    assert sorted(entry.name for entry in tmp_path.glob("*.h5*")) == ["data.h5.parts"]
    path, incidents = record(tmp_path, {"how": "die", "at": 8, "times": 3}, rules=rules)
    assert path.read_bytes() == undisturbed.read_bytes()
    assert incidents == [Incidents()]


def test_a_behavior_for_another_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="greedy expert knows RWARE warehouses only, not SmacEnv"):
        record(tmp_path, make_behavior=BehaviorFactory("greedy"))


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from mads4.envs.vector import Supervision
from test_collect_supervised import record

if __name__ == "__main__":
    fault = {{"how": "hang", "at": 2, "times": 2}}
    record(Path({folder!r}), fault, rules=Supervision(processes=2))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 128 + 15), (signal.SIGKILL, -9)]
)
def test_nothing_outlives_a_recording_whose_games_hang(
    number: signal.Signals, code: int, undisturbed: Path, tmp_path: Path
) -> None:
    paths = [str(Path(file).parent) for file in (process_table.__file__, __file__)]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(paths=paths, folder=str(tmp_path)), encoding="utf-8")
    assert end_run(script, tmp_path, number, lambda: hung(tmp_path)) == code
    assert_gone(tmp_path)
    path, _ = record(tmp_path, {"how": "hang", "at": 2, "times": 2})
    assert path.read_bytes() == undisturbed.read_bytes()
