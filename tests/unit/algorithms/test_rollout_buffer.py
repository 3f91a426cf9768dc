"""Segments are the episodes, cut: every number is where it belongs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fake_env import MatchingEnv
from fakes import SPEC, make_policy
from mads4.algorithms.losses import advantages
from mads4.algorithms.rollout_buffer import Episodes, Experience, assess
from mads4.models import MlpPolicy, SequencePolicy
from mads4.models.critic import Critic
from mads4.rollout import EpisodeResult, rollout
from mads4.types import PolicyInput, PolicyOutput

COUNT = 7
CHAINS: list[dict[str, Any]] = [
    {"message": "output"},
    {"message": "state", "message_delay": 1},
    {"message": "none", "autoregressive": True},
    {"message": "logits", "autoregressive": True, "agent_order": "random"},
    {"message": "none"},
]


def play(policy: Any, count: int = COUNT) -> list[EpisodeResult]:
    envs = [MatchingEnv() for _ in range(3)]
    episodes = rollout(policy, envs, count, seed=3, target_return=lambda k: 20.0 + k, record=True)
    return sorted(episodes, key=lambda one: one.index)


def experience(
    policy: SequencePolicy, played: list[EpisodeResult], segment: int | None, **options: Any
) -> tuple[Episodes, Experience, Critic]:
    episodes = Episodes.of(played, policy.agent_order == "random")
    torch.manual_seed(1)
    critic = Critic(SPEC, policy.latent_dim, width=8).double()
    settings: dict[str, Any] = {"reference": None, "gamma": 0.9, "lam": 0.8} | options
    return episodes, assess(episodes, policy, critic, segment=segment, **settings), critic


def flat(values: torch.Tensor, found: Experience) -> torch.Tensor:
    """The real steps of segments, in some order."""
    return values[found.batch.mask]


def test_rows_are_what_was_played_and_what_followed() -> None:
    played = play(make_policy())
    episodes = Episodes.of(played, random_order=False)
    batch, steps = episodes.batch, max(one.length for one in played)
    assert batch.action.shape == (COUNT, steps + 1, 2)
    assert episodes.reward.shape == (COUNT, steps)
    for row, one in enumerate(played):
        assert one.episode is not None and one.episode.last_observation is not None
        length, episode = one.length, one.episode
        assert int(episodes.length[row]) == length
        assert batch.mask[row].tolist() == [t < length for t in range(steps + 1)]
        np.testing.assert_array_equal(batch.action[row, :length], episode.action)
        np.testing.assert_array_equal(batch.previous_action[row, 1 : length + 1], episode.action)
        assert (batch.previous_action[row, 0] == -1).all()
        np.testing.assert_array_equal(batch.observation[row, :length], episode.observation)
        np.testing.assert_array_equal(episodes.reward[row, :length], episode.reward)
        assert (episodes.reward[row, length:] == 0).all()
        asked = one.target_return - np.concatenate([[0], np.cumsum(episode.reward)])
        np.testing.assert_allclose(batch.return_to_go[row, : length + 1], asked)
        assert batch.available_actions[row, length:].all()


def test_the_last_row_is_what_the_environment_showed_after_the_last_action() -> None:
    """Played again by hand, from the seed that the vector gave the environment."""
    seeds: list[int] = []

    class Noted(MatchingEnv):
        def reset(self, seed: int) -> Any:
            seeds.append(seed)
            return super().reset(seed)

    (one,) = rollout(make_policy(), [Noted()], 1, seed=3, target_return=20.0, record=True)
    assert one.episode is not None and one.episode.last_observation is not None
    env = MatchingEnv()
    env.reset(seeds[0])
    now = None
    for action in one.episode.action:
        now = env.step(action)
    assert now is not None
    row = Episodes.of([one], random_order=False).batch.map(lambda values: values[0, -1])
    np.testing.assert_array_equal(row.observation, now.observation)
    np.testing.assert_array_equal(row.state, now.state)
    np.testing.assert_array_equal(row.previous_action, one.episode.action[-1])


@pytest.mark.parametrize("options", CHAINS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("segment", [1, 4, 5, 13, 100, None])
def test_segments_from_stored_states_are_the_whole_episodes(
    options: dict[str, Any], segment: int | None
) -> None:
    policy = make_policy(**options)
    episodes, found, _ = experience(policy, play(policy), segment)
    with torch.no_grad():
        whole = policy.sequence(episodes.batch, order=episodes.order).logits
        again = policy.sequence(found.batch, order=found.order, state=found.state).logits
    torch.testing.assert_close(flat(again, found), flat(found.logits, found))
    rows = found.batch.mask.sum()
    assert rows == episodes.length.sum(), "every step is in exactly one segment"
    assert found.batch.mask.any(1).all(), "no segment is all padding"
    expected = sorted(whole[episodes.batch.mask].nan_to_num(neginf=-9).flatten(1).tolist())
    given = sorted(flat(found.logits, found).nan_to_num(neginf=-9).flatten(1).tolist())
    np.testing.assert_allclose(given, expected, atol=1e-9)


class Noting:
    """Notes the log-probabilities of what a policy does, by the observation it did it at."""

    def __init__(self, policy: SequencePolicy) -> None:
        self.policy = policy
        self.noted: dict[bytes, torch.Tensor] = {}
        self.initial_state, self.reset_rows = policy.initial_state, policy.reset_rows

    def step(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        decision, after = self.policy.step(inputs, state)
        log_p = decision.logits.log_softmax(-1).gather(-1, decision.action[..., None])[..., 0]
        for row in range(len(log_p)):
            self.noted[inputs.observation[row].numpy().tobytes()] = log_p[row]
        return decision, after


@pytest.mark.parametrize("options", CHAINS, ids=lambda o: "-".join(map(str, o.values())))
def test_probabilities_are_those_with_which_the_actions_were_drawn(options: Any) -> None:
    policy = make_policy(**options)
    noting = Noting(policy)
    played = play(noting)
    _, found, _ = experience(policy, played, 4)
    compared = 0
    for row, t in found.batch.mask.nonzero().tolist():
        noted = noting.noted[found.batch.observation[row, t].numpy().tobytes()]
        torch.testing.assert_close(found.log_probability[row, t], noted)
        compared += 1
    assert compared == sum(one.length for one in played)


def test_the_order_is_each_episodes_own() -> None:
    policy = make_policy(agent_order="random", autoregressive=True)
    played = play(policy, 12)
    episodes, found, _ = experience(policy, played, 4)
    assert episodes.order is not None and found.order is not None
    assert len({tuple(order) for order in episodes.order.tolist()}) == 2
    for one, order in zip(played, episodes.order, strict=True):
        assert one.order_key is not None
        assert (np.diff(one.order_key[order.numpy()]) > 0).all()


@pytest.mark.parametrize("segment", [4, None])
def test_advantages_and_targets_are_those_of_whole_episodes(segment: int | None) -> None:
    policy = make_policy()
    played = play(policy)
    ends = {one.episode.terminated for one in played if one.episode is not None}
    assert ends == {True, False}, "both kinds of end occur"
    episodes, found, critic = experience(policy, played, segment)
    with torch.no_grad():
        latent = policy.sequence(episodes.batch).latent
        before = torch.cat([torch.zeros_like(latent[:, :1]), latent[:, :-1]], 1)
        value = critic.value.restore(critic(episodes.batch, before))
        raw = advantages(episodes.reward, value, episodes.length, episodes.terminated, 0.9, 0.8)
    mask = episodes.batch.mask[:, :-1]
    advantage = flat(found.advantage, found)
    torch.testing.assert_close(advantage.mean(), torch.zeros(()).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(advantage.std(correction=0), torch.ones(()).double())
    expected = (raw + value[:, :-1])[mask].flatten().sort().values
    torch.testing.assert_close(flat(found.value_target, found).flatten().sort().values, expected)
    gap = flat(found.value_target - found.value, found)
    torch.testing.assert_close((gap - gap.mean()) / gap.std(correction=0), advantage)


def with_last(one: EpisodeResult, **changes: Any) -> EpisodeResult:
    assert one.episode is not None
    changed = {f"last_{name}": value for name, value in changes.items()}
    return replace(one, episode=replace(one.episode, **changed))


def test_an_end_is_worth_nothing_and_a_cut_what_the_critic_expects() -> None:
    policy = make_policy()
    played = play(policy)
    changed = [with_last(one, observation=np.full((2, 5), 5.0, np.float32)) for one in played]
    (_, one, _), (_, other, _) = (experience(policy, k, None) for k in (played, changed))
    for row, episode in enumerate(played):
        assert episode.episode is not None
        real = slice(None, episode.length)
        same = torch.equal(one.value_target[row, real], other.value_target[row, real])
        assert same == episode.episode.terminated


def test_nothing_available_at_the_end_harms_nothing() -> None:
    policy = make_policy()
    played = [with_last(one, available_actions=np.zeros((2, 4), bool)) for one in play(policy)]
    _, found, _ = experience(policy, played, 4)
    for values in (found.logits, found.log_probability, found.value_target):
        assert not values.isnan().any()


def test_the_other_end_of_the_leash_is_asked_about_the_same_steps() -> None:
    policy, reference = make_policy(), make_policy(seed=1)
    episodes, found, _ = experience(policy, play(policy), None, reference=reference)
    assert found.reference is not None
    with torch.no_grad():
        expected = reference.sequence(episodes.batch).logits[:, :-1]
    torch.testing.assert_close(found.reference, expected)


@pytest.mark.parametrize("segment", [3, None])
def test_a_feed_forward_policy_has_segments_too(segment: int | None) -> None:
    torch.manual_seed(0)
    policy = MlpPolicy(SPEC, d_model=8, use_previous_action=True).double().eval()
    noting = Noting(policy)
    _, found, _ = experience(policy, play(noting), segment)
    part = found.select(torch.tensor([1, 0]))
    with torch.no_grad():
        logits = policy.sequence(part.batch, order=part.order, state=part.state).logits
    torch.testing.assert_close(logits[part.batch.mask], part.logits[part.batch.mask])


def test_a_selection_is_that_of_its_rows() -> None:
    policy = make_policy(agent_order="random")
    _, found, _ = experience(policy, play(policy), 4)
    rows = torch.tensor([len(found) - 1, 2, 0])
    part = found.select(rows)
    with torch.no_grad():
        logits = policy.sequence(part.batch, order=part.order, state=part.state).logits
    torch.testing.assert_close(logits[part.batch.mask], found.logits[rows][part.batch.mask])
    assert part.order is not None and found.order is not None
    assert torch.equal(part.order, found.order[rows])
    assert torch.equal(part.latent, found.latent[rows])
