"""Environments stepped together do the same in this process and in others, and leave nothing."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import fake_env
from fake_env import HangingParent, MatchingEnv, TroubledEnv
from mads4.envs.vector import IDLE, RESET, STEP, SharedBuffers, VectorEnv
from mads4.errors import UserError
from mads4.rollout import vector, workers
from mads4.rollout.local import LocalVector
from mads4.rollout.vector import default_workers, make_vector
from mads4.rollout.workers import WorkerVector
from mads4.types import TimeStep
from process_table import PATIENCE, gone, wait_for

SIZE = 5


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def order(envs: VectorEnv, orders: list[int], seed: int = 0) -> None:
    rows = slice(0, len(orders))
    envs.buffers.order[rows] = orders
    envs.buffers.seed[rows] = seed + np.arange(len(orders))
    envs.buffers.action[rows] = 1
    envs.send(rows)
    assert envs.wait(rows) == []


def picture(envs: VectorEnv) -> dict[str, np.ndarray]:
    names = ("observation", "available_actions", "reward", "terminated", "truncated", "binary")
    shown = {name: getattr(envs.buffers, name).copy() for name in names}
    return shown | {"state": envs.buffers.states(slice(0, SIZE))}


def test_processes_show_what_one_process_shows() -> None:
    with (
        closing(make_vector(MatchingEnv, SIZE, workers=0)) as here,
        closing(make_vector(MatchingEnv, SIZE, workers=2, local=1)) as there,
        closing(make_vector(MatchingEnv, SIZE, workers=9)) as each,
    ):
        assert isinstance(here, LocalVector)
        assert here.spec == there.spec == fake_env.SPEC
        assert [there.env(row) is None for row in range(SIZE)] == [False] + [True] * 4
        assert isinstance(here.env(4), MatchingEnv)
        ended = 0
        for orders in [[RESET] * SIZE, *[[STEP, STEP, IDLE, STEP, STEP]] * 14, [IDLE] * SIZE]:
            for envs in (here, there, each):
                order(envs, orders)
            expected = picture(here)
            assert expected["state"].dtype == np.uint8
            for envs in (there, each):
                for name, values in picture(envs).items():
                    np.testing.assert_array_equal(values, expected[name], err_msg=name)
            for row in np.flatnonzero(expected["terminated"] | expected["truncated"]):
                ended += 1
                assert here.metrics(row) == there.metrics(row) == each.metrics(row)
                assert set(here.metrics(row)) == {"matches"}
        assert ended


def test_idle_environments_stay_as_they_are() -> None:
    with closing(LocalVector([MatchingEnv(), MatchingEnv()])) as envs:
        order(envs, [RESET, RESET])
        before = envs.buffers.observation.copy()
        order(envs, [IDLE, STEP])
        assert (envs.buffers.observation[0] == before[0]).all()
        assert (envs.buffers.observation[1] != before[1]).any()


def test_an_episode_is_cut_at_the_specs_limit() -> None:
    with closing(LocalVector([MatchingEnv(endless=True, episode_limit=3)])) as envs:
        order(envs, [RESET])
        for cut in (False, False, True):
            order(envs, [STEP])
            assert not envs.buffers.terminated[0]
            assert envs.buffers.truncated[0] == cut


def test_a_board_lies_in_the_memory_it_is_given() -> None:
    size = SharedBuffers.size(fake_env.SPEC, 3)
    memory = bytearray(size)
    one, other = (
        SharedBuffers.over(fake_env.SPEC, 3, memory),
        SharedBuffers.over(fake_env.SPEC, 3, memory),
    )
    for name in vars(one):
        array = getattr(one, name)
        assert array.shape[0] == 3
        array[...] = 1
        assert (getattr(other, name) == 1).all()
        array[...] = 0
    assert not any(memory), "no array writes outside the board"
    with pytest.raises((TypeError, ValueError)):
        SharedBuffers.over(fake_env.SPEC, 3, bytearray(size // 2))


def test_states_keep_the_dtype_in_which_they_are_written() -> None:
    class Floats(MatchingEnv):
        def reset(self, seed: int) -> TimeStep:
            now = super().reset(seed)
            return replace(now, state=now.state + 0.5)

    with closing(LocalVector([Floats()])) as envs:
        order(envs, [RESET])
        state = envs.buffers.states(slice(0, 1))
        assert state.dtype == np.float32
        assert set(np.unique(state)) <= {0.5, 1.5}


@pytest.mark.parametrize("name", ["observation", "state", "available_actions"])
def test_an_environment_that_breaks_its_word_is_named(name: str) -> None:
    class Liar(MatchingEnv):
        def reset(self, seed: int) -> TimeStep:
            return replace(super().reset(seed), **{name: np.zeros((1, 1), np.float32)})

    with closing(LocalVector([Liar()])) as envs, pytest.raises(UserError) as error:
        order(envs, [RESET])
    assert re.search(rf"fake \(matching\) returns {name} of shape \(1, 1\), but", str(error.value))


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("bug", RuntimeError, "ZeroDivisionError: a bug in the environment"),
        ("refuse", UserError, "no such scenario"),
    ],
)
def test_errors_in_processes_keep_their_kind(
    how: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    make = partial(TroubledEnv, how, 1, str(tmp_path))
    with closing(WorkerVector(make, 2, 1)) as envs:
        order(envs, [RESET, RESET])
        order(envs, [STEP, STEP])
        with pytest.raises(error, match=words):
            order(envs, [STEP, STEP])


def test_what_cannot_be_sent_to_a_process_is_refused() -> None:
    with pytest.raises(UserError, match=r"top level of a module, or use evaluator\.num_workers=0"):
        make_vector(lambda: MatchingEnv(), 8, workers=2)


def test_a_simulator_that_an_environment_started_ends_with_it(tmp_path: Path) -> None:
    """A hung process is killed together with what it has started."""
    make = partial(HangingParent, str(tmp_path))
    with closing(WorkerVector(make, 1, 1, timeout=3.0)) as envs:
        rows = slice(0, 1)
        envs.buffers.order[rows] = RESET
        envs.send(rows)
        (loss,) = envs.wait(rows)
    assert loss.rows == loss.blamed == (0,)
    assert loss.reason == "gave no answer for 3 s"
    (pid,) = [int(path.name) for path in tmp_path.iterdir()]
    wait_for(lambda: gone(pid))


def test_shared_memory_has_no_name_that_could_stay() -> None:
    def names() -> set[str]:
        return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()

    before = names()
    with closing(WorkerVector(MatchingEnv, 2, 1)) as envs:
        order(envs, [RESET, RESET])
        mine = [name for name in names() - before if str(os.getpid()) in name]
        assert mine == []


def test_closing_does_not_wait_for_what_hangs(tmp_path: Path) -> None:
    envs = WorkerVector(partial(TroubledEnv, "hang", 0, str(tmp_path)), 1, 1)
    order(envs, [RESET])
    order(envs, [STEP])
    envs.buffers.order[0] = STEP
    envs.send(slice(0, 1))
    wait_for(lambda: list(tmp_path.iterdir()))
    began = time.monotonic()
    envs.close()
    assert time.monotonic() - began < 60.0, "it hangs for 1000 s"


def test_an_answer_that_comes_at_the_last_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may be suspended between the end of its waiting and its look at the clock."""
    calls: list[float] = []

    def suspended(connections: list[Connection], timeout: float) -> list[object]:
        calls.append(timeout)
        found = multiprocessing.connection.wait(connections, 60.0)
        assert found
        return [] if len(calls) == 1 else found

    with closing(WorkerVector(MatchingEnv, 1, 1)) as envs:
        order(envs, [RESET])
        monkeypatch.setattr(workers, "wait", suspended)
        monkeypatch.setattr(envs, "_time_left", lambda worker: (0.0, 60.0))
        order(envs, [STEP])
        assert len(calls) == 2
        assert envs.incidents.processes_lost == 0


@pytest.mark.parametrize(
    ("cores", "size", "workers"), [(2, 1, 0), (2, 7, 0), (2, 32, 1), (64, 32, 8), (1, 32, 0)]
)
def test_processes_are_used_where_they_pay(
    cores: int, size: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    assert default_workers(size) == workers


SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from fake_env import MatchingEnv
from mads4.rollout.vector import make_vector
from contextlib import closing


class PidEnv(MatchingEnv):
    def reset(self, seed):
        Path({folder!r}, str(os.getpid())).touch()
        return super().reset(seed)


if __name__ == "__main__":
    with closing(make_vector(PidEnv, 4, workers=2)) as envs:
        rows = slice(0, 4)
        while True:
            envs.buffers.order[rows] = 2
            envs.send(rows)
            envs.wait(rows)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    script = tmp_path / "script.py"
    tests = str(Path(fake_env.__file__).parent)
    script.write_text(SCRIPT.format(tests=tests, folder=str(folder)), encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE)
    wait_for(lambda: len(list(folder.iterdir())) == 2 or parent.poll() is not None)
    try:
        parent.send_signal(number)
        _, errors = parent.communicate(timeout=PATIENCE)
    finally:
        parent.kill()
    if number == signal.SIGINT:
        assert errors.count(b"Traceback") == 1, "only the parent is interrupted"
    assert parent.returncode == -number
    wait_for(lambda: all(gone(int(path.name)) for path in folder.iterdir()))
