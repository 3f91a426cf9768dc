"""Lockstep play gives the episodes that one environment at a time would give."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_env import FatalEnv, MatchingEnv, TroubledEnv
from fakes import make_policy
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.rware import RwareEnv
from mads4.envs.seeding import environment_seed
from mads4.envs.vector import VectorEnv
from mads4.errors import UserError
from mads4.models import Mads4Policy
from mads4.rollout import EpisodeResult, StepEvent, rollout
from mads4.rollout.local import LocalVector
from mads4.rollout.workers import WorkerVector
from mads4.types import Episode, PolicyInput, PolicyOutput

EPISODES = 9


class Spy:
    """Plays by the uniform numbers it is given and notes what it was asked; remembers steps."""

    def __init__(self) -> None:
        self.inputs: list[PolicyInput] = []
        self.steps: list[torch.Tensor] = []

    def initial_state(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, dtype=torch.int64)

    def step(self, inputs: PolicyInput, state: torch.Tensor) -> tuple[PolicyOutput, torch.Tensor]:
        self.inputs.append(inputs)
        self.steps.append(state)
        logits = torch.zeros(inputs.available_actions.shape)
        if inputs.uniform is None:
            action = inputs.available_actions.int().argmax(-1)
        else:
            action = (inputs.uniform * logits.shape[-1]).long()
        return PolicyOutput(action, logits), state + 1

    def reset_rows(self, state: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows, 0, state)


def play(
    policy: Any,
    parallel: int,
    make_env: Callable[[], MultiAgentEnv] = MatchingEnv,
    episodes: int = EPISODES,
    **options: Any,
) -> list[EpisodeResult]:
    return play_in(policy, [make_env() for _ in range(parallel)], episodes, **options)


def play_in(
    policy: Any,
    envs: Sequence[MultiAgentEnv] | VectorEnv,
    episodes: int = EPISODES,
    **options: Any,
) -> list[EpisodeResult]:
    settings: dict[str, Any] = {"seed": 5, "target_return": 20.0} | options
    played = list(rollout(policy, envs, episodes, **settings))
    return sorted(played, key=lambda episode: episode.index)


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[tuple[int, int], VectorEnv]]:
    """(environments, worker processes) → environments; made once, starting takes a while."""
    made: dict[tuple[int, int], VectorEnv] = {
        (size, workers): WorkerVector(MatchingEnv, size, workers)
        for size, workers in ((1, 1), (7, 1), (7, 2), (32, 2))
    }
    yield made
    for envs in made.values():
        envs.close()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("message", ["none", "output"])
def test_episodes_do_not_depend_on_how_many_are_played_at_once(
    message: str, deterministic: bool
) -> None:
    policy = make_policy(message=message)
    alone = play(policy, 1, deterministic=deterministic)
    assert [episode.index for episode in alone] == list(range(EPISODES))
    assert len({episode.length for episode in alone}) > 3, "lengths differ, slots are refilled"
    assert len({episode.episode_return for episode in alone}) > 2
    for parallel in (2, 3, 7, 9, 20):
        assert play(policy, parallel, deterministic=deterministic) == alone


def test_the_first_episodes_do_not_depend_on_how_many_follow() -> None:
    policy = make_policy()
    assert play(policy, 3, episodes=4) == play(policy, 2)[:4]
    assert play(policy, 3, episodes=0) == []


def test_the_warehouse_plays_the_same_alone_and_in_company() -> None:
    def make_env() -> RwareEnv:
        return RwareEnv("tiny-2ag", reward="alberdice", options={"max_steps": 40})

    def tracks(parallel: int) -> tuple[list[EpisodeResult], dict[tuple[int, int], Any]]:
        seen = {}

        def watch(moment: StepEvent) -> None:
            assert isinstance(moment.env, RwareEnv)
            robots = moment.env.warehouse.agents
            seen[moment.index, moment.step] = [
                (int(r.x), int(r.y), r.dir.value, r.carrying_shelf is not None) for r in robots
            ]

        return play(policy, parallel, make_env, episodes=8, callback=watch), seen

    torch.manual_seed(0)
    policy = Mads4Policy(make_env().spec, n_layers=1, d_model=16, d_state=8)
    policy = policy.to(torch.float64).eval()
    alone, positions = tracks(1)
    assert {episode.length for episode in alone} == {40}
    assert len({str(robots) for robots in positions.values()}) > 200
    for parallel in (3, 7):
        played, seen = tracks(parallel)
        assert played == alone
        assert seen == positions


def test_another_seed_is_another_game() -> None:
    policy = make_policy()
    first, second = play(policy, 3), play(policy, 3, seed=6)
    assert [e.length for e in first] != [e.length for e in second]


def test_returns_and_metrics_are_sums_over_the_episode() -> None:
    for episode in play(make_policy(), 4):
        assert episode.metrics == {"matches": episode.episode_return}
        assert 3 <= episode.length <= 14


@dataclass
class Paying:
    """Rewards 1, 2, 3, … for as many steps as the seed says."""

    spec = MatchingEnv().spec
    inner: MatchingEnv
    paid: float = 0.0

    def reset(self, seed: int) -> Any:
        self.paid = 0.0
        return self.inner.reset(seed)

    def step(self, actions: Any) -> Any:
        from dataclasses import replace

        self.paid += 1.0
        return replace(self.inner.step(actions), reward=self.paid)

    def render(self) -> Any:
        return self.inner.render()

    def close(self) -> None:
        self.inner.close()


def test_what_is_still_asked_for_falls_with_every_reward() -> None:
    spy = Spy()
    (episode,) = play(spy, 1, lambda: Paying(MatchingEnv()), episodes=1)
    asked = [float(inputs.return_to_go) for inputs in spy.inputs]
    expected = 20.0 - np.cumsum([0, *range(1, episode.length)])
    assert asked == expected.tolist()
    assert spy.inputs[0].return_to_go.dtype == torch.float32


def test_memory_begins_anew_with_every_episode() -> None:
    spy = Spy()
    played = play(spy, 3)
    began = sum(int((steps == 0).sum()) for steps in spy.steps)
    assert began == EPISODES
    assert sum(len(inputs.observation) for inputs in spy.inputs) >= sum(e.length for e in played)


def test_uniform_numbers_are_the_episodes_own() -> None:
    one, three = Spy(), Spy()
    play(one, 1)
    play(three, 3)
    first = [inputs.uniform for inputs in one.inputs]
    assert all(u is not None and u.dtype == torch.float64 and u.shape == (1, 2) for u in first)
    alone = {tuple(row.tolist()) for u in first if u is not None for row in u}
    second = [inputs.uniform for inputs in three.inputs]
    together = {tuple(row.tolist()) for u in second if u is not None for row in u}
    assert alone <= together
    assert len(alone) == len(first), "never the same numbers twice"
    greedy = Spy()
    play(greedy, 3, deterministic=True)
    assert all(inputs.uniform is None for inputs in greedy.inputs)


def test_everything_is_watched() -> None:
    moments: list[tuple[int, int, float]] = []

    def watch(moment: StepEvent) -> None:
        assert moment.env.spec.name == "fake"
        moments.append((moment.index, moment.step, moment.return_to_go))

    played = play(make_policy(), 4, callback=watch)
    for episode in played:
        seen = [(step, left) for index, step, left in moments if index == episode.index]
        assert [step for step, _ in seen] == list(range(episode.length + 1))
        assert seen[0][1] == 20.0
        assert seen[-1][1] == 20.0 - episode.episode_return


def test_an_environment_that_never_ends_is_cut_at_its_limit() -> None:
    played = play(make_policy(), 2, lambda: MatchingEnv(endless=True), episodes=3)
    assert [episode.length for episode in played] == [14, 14, 14]


def test_an_episodes_end_is_told_at_once() -> None:
    """Progress bars and interrupted evaluations rely on it."""
    envs = [MatchingEnv(), MatchingEnv()]
    episodes = rollout(make_policy(), envs, 50, seed=0, target_return=1.0)
    assert isinstance(next(episodes), EpisodeResult)
    episodes.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", ["none", "output"])
def test_episodes_do_not_depend_on_where_they_are_played(
    message: str, processes: dict[tuple[int, int], VectorEnv]
) -> None:
    policy = make_policy(message=message)
    alone = play(policy, 1, episodes=40)
    assert play(policy, 32, episodes=40) == alone
    for envs in processes.values():
        assert play_in(policy, envs, 40) == alone
        assert play_in(policy, envs, 3) == alone[:3], "once more, with fewer"


def test_many_are_stepped_by_turns(processes: dict[tuple[int, int], VectorEnv]) -> None:
    one, turns = Spy(), Spy()
    alone = play(one, 1, episodes=40)
    assert play_in(turns, processes[32, 2], 40) == alone
    assert {len(inputs.observation) for inputs in turns.inputs} == {16}


def test_the_warehouse_plays_the_same_in_processes() -> None:
    make_env = partial(RwareEnv, options={"max_steps": 40})
    torch.manual_seed(0)
    policy = Mads4Policy(make_env().spec, n_layers=1, d_model=16, d_state=8)
    policy = policy.to(torch.float64).eval()
    alone = play(policy, 1, make_env, episodes=20, record=True)
    with closing(WorkerVector(make_env, 18, 2)) as envs:
        together = play_in(policy, envs, 20, record=True)
    assert together == alone
    for one, other in zip(alone, together, strict=True):
        assert_same_episode(one.episode, other.episode)


def assert_same_episode(one: Episode | None, other: Episode | None) -> None:
    assert one is not None
    assert other is not None
    for name in (f.name for f in fields(Episode)):
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=name)


def test_recorded_episodes_are_what_happened(
    processes: dict[tuple[int, int], VectorEnv],
) -> None:
    """Their actions, taken again in a new environment, show and earn the same."""
    policy = make_policy()
    for envs in ([MatchingEnv() for _ in range(3)], processes[7, 2], processes[32, 2]):
        for played in play_in(policy, envs, 40, record=True):
            episode = played.episode
            assert episode is not None
            assert episode.action.dtype == np.int64
            assert episode.reward.dtype == np.float32
            assert episode.state.dtype == np.uint8
            assert (episode.seed, episode.length) == (played.index, played.length)
            assert episode.episode_return == played.episode_return
            assert episode.metrics == played.metrics
            env = MatchingEnv()
            now = env.reset(environment_seed(5, played.index))
            for t in range(episode.length):
                assert not now.done
                np.testing.assert_array_equal(episode.observation[t], now.observation)
                np.testing.assert_array_equal(episode.state[t], now.state)
                np.testing.assert_array_equal(episode.available_actions[t], now.available_actions)
                now = env.step(episode.action[t])
                assert episode.reward[t] == now.reward
            assert (episode.terminated, episode.truncated) == (now.terminated, now.truncated)
            np.testing.assert_array_equal(episode.last_observation, now.observation)
            np.testing.assert_array_equal(episode.last_state, now.state)
            np.testing.assert_array_equal(episode.last_available_actions, now.available_actions)


def test_nothing_is_kept_unless_asked_for() -> None:
    assert all(played.episode is None for played in play(make_policy(), 3))


def test_order_and_losses_are_drawn_as_promised(
    processes: dict[tuple[int, int], VectorEnv],
) -> None:
    """The order's keys once an episode, the losses at every step, of a stream of their own."""
    drop = np.array([0.2, 0.7])
    expected = {}
    for index, length in enumerate(played.length for played in play(Spy(), 1)):
        actions = np.random.default_rng([5, index]).random((length, 2))
        rng = np.random.default_rng([5, index, 1])
        order, lost = rng.random(2), rng.random((length, 2)) < drop
        for t in range(length):
            expected[tuple(actions[t])] = (tuple(order), tuple(lost[t]))
    for envs in ([MatchingEnv()], [MatchingEnv() for _ in range(4)], processes[7, 2]):
        spy = Spy()
        play_in(spy, envs, message_dropout=drop)
        seen = {}
        for inputs in spy.inputs:
            drawn = [inputs.uniform, inputs.order_key, inputs.message_dropped]
            assert [d.dtype for d in drawn if d is not None] == [torch.float64] * 2 + [torch.bool]
            for rows in zip(*[d.tolist() for d in drawn if d is not None], strict=True):
                uniform, order, message = map(tuple, rows)
                seen[uniform] = (order, message)
        assert {uniform: seen[uniform] for uniform in expected} == expected


def test_order_is_known_and_nothing_lost_unless_asked_for() -> None:
    spy = Spy()
    play(spy, 3, deterministic=True)
    assert all(inputs.order_key is not None for inputs in spy.inputs)
    assert all(inputs.message_dropped is None for inputs in spy.inputs)
    play(spy, 3, message_dropout=1.0)
    assert spy.inputs[-1].message_dropped is not None
    assert spy.inputs[-1].message_dropped.all()


def test_long_episodes_draw_on_the_same_stream() -> None:
    """Numbers are drawn in blocks, which nobody may notice."""
    spy = Spy()
    play(spy, 1, partial(MatchingEnv, endless=True, episode_limit=300), episodes=1)
    drawn = [inputs.uniform[0].tolist() for inputs in spy.inputs if inputs.uniform is not None]
    assert drawn == np.random.default_rng([5, 0]).random((300, 2)).tolist()


def test_what_is_filmed_stays_in_this_process() -> None:
    moments: list[tuple[int, int]] = []

    def watch(moment: StepEvent) -> None:
        assert moment.env.render().shape == (24, 32, 3)
        moments.append((moment.index, moment.step))

    policy = make_policy()
    with closing(WorkerVector(MatchingEnv, 4, 2, local=1)) as envs:
        played = play_in(policy, envs, callback=watch)
    assert played == play(policy, 1)
    filmed = [step for index, step in moments if index == 0]
    assert filmed == list(range(played[0].length + 1))


@pytest.mark.parametrize(
    ("how", "timeout", "reason"),
    [("kill", 60.0, r"died \(exit code -9\)"), ("hang", 3.0, "gave no answer for 3 s")],
)
def test_a_lost_process_changes_nothing(
    how: str, timeout: float, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = make_policy()
    before = multiprocessing.active_children()
    expected = play(policy, 1, episodes=20, record=True)
    make_env = partial(TroubledEnv, how, environment_seed(5, 4), str(tmp_path), 2)
    with (
        caplog.at_level(logging.WARNING),
        closing(WorkerVector(make_env, 17, 2, timeout=timeout)) as envs,
    ):
        played = play_in(policy, envs, 20, record=True)
    assert played == expected
    for one, other in zip(played, expected, strict=True):
        assert_same_episode(one.episode, other.episode)
    assert played[4].restarts == 2
    assert played[5].restarts == 0, "another process played it"
    words = [record.getMessage() for record in caplog.records]
    pattern = rf"A worker process {reason}; playing episodes .*\b4\b.* again\."
    assert sum(bool(re.fullmatch(pattern, line)) for line in words) == 2
    assert set(multiprocessing.active_children()) <= set(before)


def test_a_deadly_episode_is_given_up(tmp_path: Path) -> None:
    make_env = partial(TroubledEnv, "kill", environment_seed(5, 3), str(tmp_path), 99)
    with (
        closing(WorkerVector(make_env, 4, 1)) as envs,
        pytest.raises(UserError, match=r"^Episode 3 of seed 5 has failed 3 times"),
    ):
        play_in(make_policy(), envs)


def test_processes_that_cannot_even_start_are_given_up() -> None:
    with (
        closing(WorkerVector(partial(FatalEnv, os.getpid()), 2, 1)) as envs,
        pytest.raises(UserError, match=r"3 worker processes in a row could not start .*code 3"),
    ):
        play_in(make_policy(), envs)


def test_an_abandoned_rollout_does_not_disturb_the_next(
    processes: dict[tuple[int, int], VectorEnv],
) -> None:
    policy = make_policy()
    for envs in (LocalVector([MatchingEnv() for _ in range(4)]), processes[32, 2]):
        first = rollout(policy, envs, 40, seed=9, target_return=1.0)
        next(iter(first))
        first.close()  # type: ignore[attr-defined]
        assert play_in(policy, envs, 20) == play(policy, 1, episodes=20)
