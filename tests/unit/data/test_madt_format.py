"""MADT's layout: what is read, what is skipped by rule, and what is refused."""

from __future__ import annotations

import logging
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from madt_fakes import ACTIONS, AGENTS, FORMS, OBSERVATION, STATE, nested, save

from mads4.data.dataset import Dataset
from mads4.data.formats import open_source
from mads4.data.formats.madt import open_madt, write_madt
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode

LIMIT = 8
SPEC = EnvSpec(
    *("smac", "3m", AGENTS, OBSERVATION, STATE, ACTIONS, LIMIT),
    reward="shaped",
    state_per_agent=True,
)


def column(episode: Any, entry: int) -> Any:
    """Return an entry of all steps as an array (T, N, …)."""
    return np.array([[np.asarray(step[entry]) for step in agent] for agent in episode]).swapaxes(
        0, 1
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_bit_for_bit(tmp_path: Path, form: str, legacy: bool) -> None:
    given = [nested(4, 0, form), nested(LIMIT, 1, form), nested(3, 2, form, done=False)]
    save(tmp_path / "3m" / "Good", *given, _use_new_zipfile_serialization=not legacy)
    recording = open_source("madt", tmp_path / "3m" / "Good", SPEC)
    assert recording.spec == SPEC
    assert recording.name == "3m-good"
    assert [recording.origin[key] for key in ("map", "quality")] == ["3m", "good"]
    assert [path.name for path in recording.files] == ["0.pt", "1.pt", "2.pt"]
    found = list(recording.episodes())
    assert recording.skipped == {}
    for number, (episode, content) in enumerate(zip(found, given, strict=True)):
        np.testing.assert_array_equal(episode.state, column(content, 0).astype(np.float32))
        np.testing.assert_array_equal(episode.observation, column(content, 1).astype(np.float32))
        np.testing.assert_array_equal(episode.action, column(content, 2)[..., 0])
        np.testing.assert_array_equal(episode.reward, column(content, 3)[:, 0, 0].astype("f4"))
        np.testing.assert_array_equal(episode.available_actions, column(content, 5) != 0)
        assert (
            episode.state.dtype == episode.observation.dtype == episode.reward.dtype == np.float32
        )
        assert (episode.action.dtype, episode.available_actions.dtype) == (np.int64, np.bool_)
        assert episode.seed == number
    ends = [(episode.terminated, episode.truncated) for episode in found]
    assert ends == [(True, False), (False, True), (False, True)]


def equal(found: Episode, given: Episode) -> bool:
    return all(
        getattr(found, name).dtype == getattr(given, name).dtype
        and np.array_equal(getattr(found, name), getattr(given, name))
        for name in ("observation", "state", "available_actions", "action", "reward")
    ) and (found.terminated, found.truncated) == (given.terminated, given.truncated)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save(tmp_path / "old", nested(4), nested(LIMIT, 1), nested(3, 2, done=False), nested(1, 3))
    given = list(open_madt(tmp_path / "old", SPEC).episodes())
    assert write_madt(tmp_path / "new", SPEC, given) == tmp_path / "new"
    found = list(open_madt(tmp_path / "new", SPEC).episodes())
    assert all(equal(*pair) for pair in zip(found, given, strict=True))
    data = [Dataset.from_episodes(SPEC, episodes) for episodes in (given, found)]
    assert data[0].fingerprint == data[1].fingerprint


def test_a_state_for_all_is_written_for_each(tmp_path: Path) -> None:
    save(tmp_path / "old", nested(4))
    (given,) = open_madt(tmp_path / "old", SPEC).episodes()
    common = Episode(**{**vars(given), "state": given.state[:, :1]})
    write_madt(tmp_path / "new", replace(SPEC, state_per_agent=False), [common])
    (found,) = open_madt(tmp_path / "new", SPEC).episodes()
    np.testing.assert_array_equal(found.state, np.repeat(given.state[:, :1], AGENTS, axis=1))


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    save(tmp_path / "old", nested(4))
    (given,) = open_madt(tmp_path / "old", SPEC).episodes()
    with pytest.raises(UserError, match="exists already"):
        write_madt(tmp_path / "old", SPEC, [given])
    with pytest.raises(UserError, match="at least one episode"):
        write_madt(tmp_path / "new", SPEC, [])
    wrong = Episode(**{**vars(given), "action": given.action + 99})
    with pytest.raises(UserError, match="Episode 1 cannot be stored"):
        write_madt(tmp_path / "new", SPEC, [given, wrong])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("folder", "limit"),
    [("corridor/poor", 400), ("5m_vs_6m", 70), ("8m/good", 120), ("mine/good", 5)],
)
def test_the_limit_without_an_environment(tmp_path: Path, folder: str, limit: int) -> None:
    recording = open_madt(save(tmp_path / folder, nested(3), nested(5)))
    assert recording.spec.episode_limit == limit
    assert (recording.spec.name, recording.spec.scenario, recording.spec.reward) == ("", "", "")
    assert [episode.truncated for episode in recording.episodes()] == [False, limit == 5]


def test_the_game_is_recognized_without_an_environment(tmp_path: Path) -> None:
    """…by the folder's name and all sizes, which are those of MAPPO's wrapper on 3m."""
    step = [[0.0] * 81, [0.0] * 64, [1], [0.5], True, [1] * 9]
    episode = [[step] for _ in range(3)]
    known = ("smac", "3m", 3, 64, 81, 9, 60, "smac", "mappo")
    folder = save(tmp_path / "3m" / "good", episode)
    assert open_madt(folder).spec == EnvSpec(*known, state_per_agent=True)
    assert open_madt(folder, replace(SPEC, reward="")).spec.reward == "", "who is told believes it"
    foreign = open_madt(save(tmp_path / "mine" / "good", episode)).spec
    assert (foreign.name, foreign.scenario, foreign.reward, foreign.state_encoding) == ("",) * 4
    told = open_madt(tmp_path / "mine" / "good", scenario="3m")
    assert told.spec == EnvSpec(*known, state_per_agent=True)
    assert (told.name, told.origin["map"]) == ("3m-good", "3m")


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    save(tmp_path, *[nested(k) for k in (1, 2, 3)])
    (tmp_path / "0.pt").rename(tmp_path / "z.pt")
    (tmp_path / ".hidden").write_text("no episode")
    assert [episode.length for episode in open_madt(tmp_path, SPEC).episodes()] == [2, 3, 1]


def changed(change: Callable[[Any], Any], length: int = 4) -> Any:
    episode = nested(length)
    change(episode)
    return episode


def set_step(agent: int, step: int, entry: int, value: Any) -> Callable[[Any], None]:
    def change(episode: Any) -> None:
        episode[agent][step][entry] = value

    return change


def all_done_at(step: int) -> Callable[[Any], None]:
    def change(episode: Any) -> None:
        for agent in episode:
            agent[step][4] = True

    return change


SKIPPED = [
    (lambda episode: episode[1].pop(), "agents with unequal numbers of steps: 4, 3, 4"),
    (set_step(2, 1, 3, [7.0]), "agents with unequal rewards at step 1: .*, 7$"),
    (set_step(0, 2, 5, [0] * ACTIONS), "an executed action is not among the available"),
    (set_step(0, 2, 2, [ACTIONS]), "action has values outside 0 to 5"),
    (set_step(0, 2, 2, [-1]), "action has values outside 0 to 5"),
    (set_step(1, 0, 1, [float("nan")] * OBSERVATION), "observation has values that are not finite"),
    (set_step(1, 0, 0, [1e300] * STATE), "state has values that are not finite"),
    (all_done_at(1), "goes on after step 1, where all agents are done"),
    (lambda episode: [agent.extend(agent) for agent in episode], "goes on after step 3"),
    (lambda episode: [agent.extend(agent * 2) for agent in episode], "12 steps, beyond the limit"),
]


@pytest.mark.parametrize(("change", "reason"), SKIPPED)
def test_episodes_are_skipped_by_rule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Any], Any], reason: str
) -> None:
    folder = save(tmp_path / "good", nested(4), changed(change), nested(2))
    recording = open_madt(folder, SPEC)
    with caplog.at_level(logging.WARNING):
        found = list(recording.episodes())
    assert [(episode.length, episode.seed) for episode in found] == [(4, 0), (2, 2)]
    assert list(recording.skipped) == ["1.pt"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(recording.skipped["1.pt"])
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"1 of 3 episodes in {folder} were skipped, the first, 1.pt"
    )
    assert len(list(recording.episodes())) == 2, "a second reading is the same"


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, changed(lambda episode: episode[1].pop()))
    with pytest.raises(
        UserError, match=r"1 of 1 episodes .* none of: 0.pt has agents with unequal"
    ):
        list(open_madt(tmp_path, SPEC).episodes())


def test_all_rewards_not_a_number_is_no_disagreement(tmp_path: Path) -> None:
    save(tmp_path, nested(2), changed(lambda e: [agent[0].__setitem__(3, [np.nan]) for agent in e]))
    recording = open_madt(tmp_path, SPEC)
    assert len(list(recording.episodes())) == 1
    assert "reward has values that are not finite" in recording.skipped["1.pt"]


REFUSED = [
    ([], "the episode is no list of agents"),
    ({"a": 1}, "the episode is no list of agents"),
    ([[], []], "agent 0 is no list of steps"),
    ([[[1, 2, 3]]], "member agent 0, step 0, is refused: a step is no list of global_state"),
    ([[3.5] * 4], "agent 0, step 0, is refused: a step is no list"),
    (
        changed(set_step(2, 3, 1, [1.0] * 4)),
        r"1.pt, member agent 2, step 3, .*observation has 4 numb",
    ),
    (changed(set_step(2, 3, 0, "text")), r"member agent 2, step 3, is damaged: a str"),
    (changed(set_step(2, 3, 0, [[1.0]] * 7)), r"member agent 2, step 3, is damaged: a list with"),
    (
        changed(set_step(2, 3, 2, [1.5])),
        r"member agent 2, step 3, .*action is 1.5, no whole number",
    ),
    (
        changed(set_step(2, 3, 3, [1j])),
        r"member agent 2, step 3, is damaged: a list with a complex",
    ),
    (changed(set_step(2, 3, 4, None)), r"member agent 2, step 3, is damaged: a NoneType"),
    (nested(3)[:2], r"1.pt is refused: it has 2 agents, .*; expected are 3 agents"),
]


@pytest.mark.parametrize(("content", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_foreign_files_are_refused(tmp_path: Path, content: Any, reason: str) -> None:
    save(tmp_path, nested(4), content)
    with pytest.raises(UserError, match=reason):
        list(open_madt(tmp_path, SPEC).episodes())


class Command:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("first", [True, False])
def test_a_file_that_would_run_a_command(tmp_path: Path, first: bool) -> None:
    proof = tmp_path / "proof"
    bad = changed(set_step(1, 1, 1, Command(proof)))
    folder = save(tmp_path / "good", *((bad, nested(3)) if first else (nested(3), bad)))
    with pytest.raises(UserError, match=r"\d.pt, member \d/data.pkl, .* wants (posix|nt).system"):
        list(open_madt(folder, SPEC).episodes())
    assert not proof.exists()


def test_folders_that_hold_no_episodes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        open_madt(tmp_path / "nowhere")
    save(tmp_path / "good", nested(2))
    with pytest.raises(UserError, match=r"holds no episodes: .*; there is good\."):
        open_madt(tmp_path)


def test_shared_content_does_not_multiply(tmp_path: Path) -> None:
    """A file of kilobytes whose steps all refer to one row would fill gigabytes."""
    wide = np.zeros(20_000, np.float32)
    step = [wide, wide, [0], [0.0], False, [1, 1, 1, 1]]
    save(tmp_path, [[step] * 10_000] * 50)
    tracemalloc.start()
    try:
        with pytest.raises(
            UserError, match=r"0.pt is refused: its steps refer to the same content"
        ):
            list(open_madt(tmp_path, EnvSpec("", "", 50, 20_000, 20_000, 4, 10_000, "")).episodes())
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


def test_memory_stays_below_twice_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    row = [rng.normal(size=400).tolist() for _ in range(2)]
    episode = [
        [[*map(list, row), [0], [0.0], False, [1] * 9] for _ in range(300)] for _ in range(4)
    ]
    save(tmp_path, episode)
    spec = EnvSpec("", "", 4, 400, 400, 9, 300, "", state_per_agent=True)
    recording = open_madt(tmp_path, spec)
    tracemalloc.start()
    try:
        assert len(list(recording.episodes())) == 1
        assert tracemalloc.get_traced_memory()[1] <= 2 * (tmp_path / "0.pt").stat().st_size
    finally:
        tracemalloc.stop()


def test_a_file_of_torch_alone_loads_what_we_write(tmp_path: Path) -> None:
    save(tmp_path / "old", nested(3))
    write_madt(tmp_path / "new", SPEC, open_madt(tmp_path / "old", SPEC).episodes())
    (path,) = (tmp_path / "new").iterdir()
    content = torch.load(path, weights_only=True)
    assert [len(steps) for steps in content] == [3] * AGENTS
    assert [type(entry) for entry in content[0][0]] == [list, list, list, list, bool, list]
