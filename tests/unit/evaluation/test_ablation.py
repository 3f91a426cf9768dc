"""Disturbing the chain: what is lost, cut, reordered, and where gradients arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fake_env import MatchingEnv
from fakes import make_policy, matching_data
from mads4.config import ProbeConfig
from mads4.data.dataset import Dataset
from mads4.data.sampler import held_out_batches
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.evaluation.ablation import (
    OrderedPolicy,
    Probe,
    chain_gradients,
    disturbances,
    require_chain,
)
from mads4.models import Mads4Policy
from mads4.rollout import EpisodeResult, rollout
from mads4.types import EnvSpec

CPU = torch.device("cpu")
THREE = {"n_agents": 3}
FACTORY = EnvFactory("custom", {"factory": "fake_env:MatchingEnv", "options": THREE})
SPEC3: EnvSpec = MatchingEnv(**THREE).spec


def chained(**options: Any) -> Mads4Policy:
    """Return a policy whose agents heed what is handed on."""
    policy = make_policy(SPEC3, **({"message": "output", "autoregressive": True} | options))
    assert policy.channel.action_in is not None
    with torch.no_grad():
        policy.channel.action_in.weight.mul_(30.0)
    return policy


def probed(policy: Mads4Policy, **settings: Any) -> dict[str, Any]:
    few = {
        "episodes": 5,
        "num_envs": 3,
        "gradient_episodes": 2,
        "progress": False,
        "num_workers": 0,
    }
    config = ProbeConfig(checkpoint="run", **(few | settings))
    return Probe(FACTORY, config, CPU).run(policy, 9.0)


def deaf(policy: Mads4Policy) -> Mads4Policy:
    """Return the policy with everything that reads hand-offs made to read nothing handed on."""
    with torch.no_grad():
        if policy.channel.message_in is not None:
            policy.channel.message_in.weight.zero_()
        if policy.channel.action_in is not None:
            weight = policy.channel.action_in.weight
            weight.copy_(weight[0].expand_as(weight))
    return policy


def play(policy: Any, **options: Any) -> list[EpisodeResult]:
    envs = [MatchingEnv(**THREE) for _ in range(3)]
    return sorted(
        rollout(policy, envs, 5, seed=1000, target_return=9.0, **options), key=lambda p: p.index
    )


def recorded(policy: Mads4Policy) -> Dataset:
    episodes = [p.episode for p in play(policy, record=True) if p.episode is not None]
    return Dataset.from_episodes(policy.spec, episodes)


@pytest.mark.parametrize("delay", [0, 1])
def test_losing_everything_is_having_no_chain(delay: int) -> None:
    policy = chained(message_delay=delay)
    lost = probed(policy)["message_loss"][-1]
    alone = play(deaf(chained(message_delay=delay)))
    assert lost["drop"] == [1.0, 1.0, 1.0]
    assert lost["return_mean"] == np.mean([p.episode_return for p in alone])
    assert lost["return_mean"] != probed(policy)["message_loss"][0]["return_mean"]


def test_every_section_begins_with_the_policy_as_it_is() -> None:
    result = probed(chained(), message_dropout=(0.5,))
    assert [one["drop"] for one in result["message_loss"]] == [[0.0] * 3, [0.5] * 3]
    assert [one["drop"] for one in result["cut"]] == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert [one["order"] for one in result["order"]] == ["fixed", "reverse", "random"]
    intact = np.mean([p.episode_return for p in play(chained())])
    for name in ("message_loss", "cut", "order"):
        first = result[name][0]
        assert first["return_mean"] == intact
        assert (first["change_mean"], first["change_ci95"]) == (0.0, [0.0, 0.0])
        for other in result[name][1:]:
            assert other["change_mean"] == pytest.approx(other["return_mean"] - intact)
            assert other["change_ci95"][0] <= other["change_mean"] <= other["change_ci95"][1]


def test_a_policy_for_any_order_may_be_cut_before_anybody() -> None:
    tried = disturbances(3, "random", [0.0])
    assert [one.drop for one in tried["cut"][1:]] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert [one.order for one in tried["order"]] == ["random", "fixed", "reverse"]


def test_results_do_not_depend_on_how_many_are_played_at_once() -> None:
    policy = chained()
    assert probed(policy, num_envs=1) == probed(policy, num_envs=5)


def test_orders() -> None:
    """Reversed, the last agent hears nobody; the policy itself keeps its own order."""
    policy = chained()
    first, last = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    forwards, backwards = OrderedPolicy(policy, "fixed"), OrderedPolicy(policy, "reverse")
    assert play(forwards) == play(policy) == play(forwards, message_dropout=first)
    assert play(forwards) != play(forwards, message_dropout=last)
    assert play(backwards) == play(backwards, message_dropout=last)
    assert play(backwards) != play(backwards, message_dropout=first)
    trained = chained(agent_order="random")
    assert play(OrderedPolicy(policy, "random")) == play(trained)
    assert play(OrderedPolicy(trained, "fixed")) == play(policy) != play(trained)
    assert policy.agent_order == "fixed"
    assert trained.agent_order == "random"


@pytest.mark.parametrize("message", ["output", "state", "logits"])
@pytest.mark.parametrize("delay", [0, 1])
def test_gradients_reach_predecessors_only(message: str, delay: int) -> None:
    policy = make_policy(SPEC3, message=message, message_delay=delay)
    norms = chain_gradients(policy, recorded(policy), CPU)
    assert (norms[np.tril_indices(3)] > 0).all()
    assert (norms[np.triu_indices(3, k=1)] == 0).all()
    assert not policy.embedding._forward_hooks
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.parametrize("options", [{"detach_message": True}, {"message": "none"}])
def test_no_gradient_without_a_message_to_carry_it(options: dict[str, Any]) -> None:
    policy = make_policy(SPEC3, **({"autoregressive": True} | options))
    norms = chain_gradients(policy, recorded(policy), CPU)
    assert (np.diag(norms) > 0).all()
    assert np.count_nonzero(norms) == 3


def test_gradients_are_those_of_the_loss() -> None:
    """Against finite differences of agent 1's loss in each number of agent 0's inputs."""
    policy = make_policy(message="output")
    data = matching_data(3).select([1])
    (batch,) = held_out_batches(data, 1)
    steps, width, small = batch.mask.shape[1], 8, 1e-5
    shift = torch.zeros(1, steps, 2, width, dtype=torch.float64)
    policy.embedding.register_forward_hook(lambda module, given, output: output + shift)

    @torch.no_grad()
    def loss(at: tuple[int, ...], by: float) -> float:
        shift[at] = by
        chosen = policy(batch).log_softmax(-1).gather(-1, batch.action.unsqueeze(-1))
        shift[at] = 0.0
        return -float(chosen[:, :, 1].sum())

    places = [(0, t, 0, h) for t in range(steps) for h in range(width)]
    slope = np.array([loss(at, small) - loss(at, -small) for at in places]) / (2 * small)
    norms = chain_gradients(policy, data, CPU)
    assert norms[1, 0] == pytest.approx(np.sqrt((slope**2).sum() / steps), rel=1e-5)
    assert chain_gradients(policy, data.select([0, 0]), CPU) == pytest.approx(norms)


def test_users_mistakes() -> None:
    alone = make_policy(MatchingEnv(n_agents=1).spec)
    with pytest.raises(UserError, match="some/run plays with a single agent"):
        require_chain(alone, "some/run")
    with pytest.raises(UserError, match=r"some/run hand nothing on .*model\.autoregressive=true"):
        require_chain(make_policy(message="none"), "some/run")
    require_chain(make_policy(message="none", autoregressive=True), "some/run")
    require_chain(make_policy(message="state"), "some/run")
