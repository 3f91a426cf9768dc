"""Lockstep play gives the episodes that one environment at a time would give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from fakes import MatchingEnv, make_policy
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.rware import RwareEnv
from mads4.models import Mads4Policy
from mads4.rollout import Moment, Played, rollout
from mads4.types import Decision, PolicyInput

EPISODES = 9


class Spy:
    """Plays by the uniform numbers it is given and notes what it was asked; remembers steps."""

    def __init__(self) -> None:
        self.inputs: list[PolicyInput] = []
        self.steps: list[torch.Tensor] = []

    def initial_state(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, dtype=torch.int64)

    def step(self, inputs: PolicyInput, state: torch.Tensor) -> tuple[Decision, torch.Tensor]:
        self.inputs.append(inputs)
        self.steps.append(state)
        logits = torch.zeros(inputs.available_actions.shape)
        if inputs.uniform is None:
            action = inputs.available_actions.int().argmax(-1)
        else:
            action = (inputs.uniform * logits.shape[-1]).long()
        return Decision(action, logits), state + 1

    def reset_rows(self, state: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows, 0, state)


def play(
    policy: Any,
    parallel: int,
    make_env: Callable[[], MultiAgentEnv] = MatchingEnv,
    episodes: int = EPISODES,
    **options: Any,
) -> list[Played]:
    envs: Sequence[MultiAgentEnv] = [make_env() for _ in range(parallel)]
    settings: dict[str, Any] = {"seed": 5, "target_return": 20.0} | options
    played = list(rollout(policy, envs, episodes, **settings))
    return sorted(played, key=lambda episode: episode.index)


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("message", ["none", "output"])
def test_episodes_do_not_depend_on_how_many_are_played_at_once(message: str, sample: bool) -> None:
    policy = make_policy(message=message)
    alone = play(policy, 1, sample=sample)
    assert [episode.index for episode in alone] == list(range(EPISODES))
    assert len({episode.length for episode in alone}) > 3, "lengths differ, slots are refilled"
    assert len({episode.episode_return for episode in alone}) > 2
    for parallel in (2, 3, 7, 9, 20):
        assert play(policy, parallel, sample=sample) == alone


def test_the_first_episodes_do_not_depend_on_how_many_follow() -> None:
    policy = make_policy()
    assert play(policy, 3, episodes=4) == play(policy, 2)[:4]
    assert play(policy, 3, episodes=0) == []


def test_the_warehouse_plays_the_same_alone_and_in_company() -> None:
    def make_env() -> RwareEnv:
        return RwareEnv("tiny-2ag", reward="alberdice", options={"max_steps": 40})

    def tracks(parallel: int) -> tuple[list[Played], dict[tuple[int, int], Any]]:
        seen = {}

        def watch(moment: Moment) -> None:
            assert isinstance(moment.env, RwareEnv)
            robots = moment.env.warehouse.agents
            seen[moment.index, moment.step] = [
                (int(r.x), int(r.y), r.dir.value, r.carrying_shelf is not None) for r in robots
            ]

        return play(policy, parallel, make_env, episodes=8, watch=watch), seen

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
    play(greedy, 3, sample=False)
    assert all(inputs.uniform is None for inputs in greedy.inputs)


def test_everything_is_watched() -> None:
    moments: list[tuple[int, int, float]] = []

    def watch(moment: Moment) -> None:
        assert moment.env.spec.name == "fake"
        moments.append((moment.index, moment.step, moment.return_to_go))

    played = play(make_policy(), 4, watch=watch)
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
    assert isinstance(next(episodes), Played)
    episodes.close()  # type: ignore[attr-defined]
