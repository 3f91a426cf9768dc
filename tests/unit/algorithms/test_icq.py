"""ICQ: its parts against numbers by hand, what it must ignore, resumption, what it learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes import SPEC, make_batch, make_policy
from mads4.algorithms.base import Context, Lagged
from mads4.algorithms.icq import ICQ, ICQConfig
from mads4.algorithms.losses import batch_softmax, td_lambda
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler
from mads4.models.critic import NormalizedMixing
from mads4.models.mlp import MlpConfig
from mads4.types import EnvSpec, Episode, SequenceBatch

CPU = torch.device("cpu")


def flags(*values: bool) -> torch.Tensor:
    return torch.tensor([values])


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [(True, [0.52875, 0.675, 1.0]), (False, [0.4275, 0.45, 0.0])],
)
def test_td_lambda_by_hand(terminated: bool, expected: list[float]) -> None:
    target, valid = td_lambda(
        torch.tensor([[0.0, 0.0, 1.0, 9.0]]),
        torch.tensor([[0.5, 0.5, 0.5, 9.0]]),
        flags(False, False, terminated, False),
        flags(True, True, False, False),
        flags(True, True, True, False),
        gamma=0.9,
        lam=0.5,
    )
    torch.testing.assert_close(target[0, :3], torch.tensor(expected))
    assert valid.tolist() == [[True, True, terminated, False]]


def test_a_window_bootstraps_from_its_last_row() -> None:
    ones = torch.ones(1, 3)
    real = flags(True, True, True)
    target, valid = td_lambda(
        ones, 10 * ones, ~real, flags(True, True, False), real, gamma=1.0, lam=1.0
    )
    assert valid.tolist() == [[True, True, False]]
    assert target[0, :2].tolist() == [12.0, 11.0]


def test_softmax_weights_have_mean_one_over_real_entries() -> None:
    values = torch.tensor([[1.0, 1.0, 1e6], [1.0, 1.0, 1e6]])
    mask = torch.tensor([[True, True, False]] * 2)
    assert torch.equal(batch_softmax(values, 0.1, mask), mask.float())
    values = torch.tensor([[0.0, 0.1, -3.0], [0.2, 0.0, 8.0]])
    weights = batch_softmax(values, 0.1, mask)
    assert float(weights.sum()) == pytest.approx(4.0)
    assert float(weights[0, 1] / weights[0, 0]) == pytest.approx(np.e)


def test_mixing_weights_are_positive_and_sum_to_one() -> None:
    torch.manual_seed(0)
    mixing = NormalizedMixing(SPEC)
    values = torch.randn(4, 5, SPEC.n_agents, requires_grad=True)
    total, weights = mixing(values, torch.randn(4, 5, 1, SPEC.state_dim))
    (gradient,) = torch.autograd.grad(total.sum(), values)
    torch.testing.assert_close(gradient, weights)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 5))


def make(policy: torch.nn.Module | None = None, **options: object) -> ICQ:
    torch.manual_seed(3)
    policy = policy or make_policy(dtype=torch.float32, message="output", autoregressive=True)
    settings = ICQConfig(**{"critic_width": 16, "warmup_steps": 0, **options})
    return settings.build(policy, Context(0, CPU, 50))


def with_bootstrap_rows(batch: SequenceBatch) -> SequenceBatch:
    """The first padded row shows what followed; the longest trajectory gets one for that."""

    def longer(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)

    found = batch.map(longer)
    length = batch.mask.sum(1)
    row, place = torch.arange(len(length)), torch.arange(found.mask.shape[1])
    found.available_actions[~found.mask] = True
    found.observation[row, length] = 0.5
    found.action[row, length] = found.action[row, length - 1]
    found.previous_action[row, length] = found.action[row, length - 1]
    follows = place < length[:, None]
    return replace(found, follows=follows, terminated=torch.zeros_like(found.terminated))


@pytest.mark.parametrize("bootstrap", [False, True])
def test_padding_and_unavailable_actions_change_nothing(bootstrap: bool) -> None:
    algorithm, batch = make(), make_batch(seed=1)
    batch = with_bootstrap_rows(batch) if bootstrap else batch
    assert not batch.mask.all() and not batch.available_actions.all()

    def found(given: SequenceBatch) -> tuple[dict[str, float], list[torch.Tensor]]:
        losses = algorithm.losses(given, algorithm.policy.sequence(given))
        total = losses["loss"] + losses["critic_loss"]
        parameters = [*algorithm.policy.parameters(), *algorithm.beside.parameters()]
        used = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = torch.autograd.grad(total, used, allow_unused=True)
        return (
            {name: float(value.detach()) for name, value in losses.items()},
            [g for g in gradients if g is not None],
        )

    padded = ~batch.mask
    if bootstrap:
        padded[torch.arange(len(padded)), batch.mask.sum(1)] = False
    spoiled = replace(
        batch,
        observation=torch.where(padded[..., None, None], 1e6, batch.observation),
        state=torch.where(padded[..., None, None], 1e6, batch.state),
        reward=torch.where(~batch.mask, 1e6, batch.reward),
        return_to_go=torch.where(padded, 1e6, batch.return_to_go),
    )
    (one, gradients), (other, spoiled_gradients) = found(batch), found(spoiled)
    assert one == pytest.approx(other, rel=1e-5)
    for gradient, spoiled_gradient in zip(gradients, spoiled_gradients, strict=True):
        torch.testing.assert_close(gradient, spoiled_gradient, rtol=1e-3, atol=1e-5)
    assert all(g.isfinite().all() for g in gradients)


def test_each_loss_reaches_its_own_networks_only() -> None:
    algorithm, batch = make(), make_batch(seed=2)
    losses = algorithm.losses(batch, algorithm.policy.sequence(batch))
    losses["loss"].backward(retain_graph=True)
    assert all(p.grad is None for p in algorithm.beside.parameters())
    algorithm.policy.zero_grad()
    losses["critic_loss"].backward()
    assert all(p.grad is None for p in algorithm.policy.parameters())
    assert not losses["effective_samples"].requires_grad


def test_a_bootstrap_row_enters_the_critics_target_alone() -> None:
    algorithm = make(gamma=0.9)
    batch = with_bootstrap_rows(make_batch(seed=2, steps=4))
    row, length = torch.arange(len(batch.mask)), batch.mask.sum(1)

    def found(given: SequenceBatch) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        losses = algorithm.losses(given, algorithm.policy.sequence(given))
        parameters = [p for p in algorithm.policy.parameters() if p.requires_grad]
        return losses, [
            g
            for g in torch.autograd.grad(losses["loss"], parameters, allow_unused=True)
            if g is not None
        ]

    changed = replace(batch, state=batch.state.clone(), observation=batch.observation.clone())
    changed.state[row, length] += 1.0
    changed.observation[row, length] -= 1.0
    (one, gradients), (other, changed_gradients) = found(batch), found(changed)
    torch.testing.assert_close(one["loss"], other["loss"])
    for left, right in zip(gradients, changed_gradients, strict=True):
        torch.testing.assert_close(left, right)
    assert float((one["critic_loss"] - other["critic_loss"]).detach().abs()) > 1e-6


def test_the_last_step_of_a_cut_episode_bootstraps_from_the_policys_mean() -> None:
    algorithm = make(gamma=0.9, td_lambda=0.8)
    batch = with_bootstrap_rows(make_batch(seed=2, batch=1, steps=1))
    output = algorithm.policy.sequence(batch)
    state = algorithm.policy.embedding.normalized_state(batch.state)
    with torch.no_grad():
        values = algorithm.lagged["critic"].module(batch)[0]
        weights = algorithm.lagged["mixing"].module(values[None, ..., 0], state)[1][0]
        chances = output.logits[0].softmax(-1)
        taken = values[0].gather(-1, batch.action[0, 0, :, None]).squeeze(-1)
        mean = sum(
            float(weights[1, i] * chances[1, i, a] * values[1, i, a])
            for i in range(SPEC.n_agents)
            for a in range(SPEC.n_actions)
        )
    error = float((weights[0] * taken).sum()) - (float(batch.reward[0, 0]) + 0.9 * mean)
    losses = algorithm.losses(batch, output)
    assert float(losses["critic_loss"].detach()) == pytest.approx(error**2, rel=1e-4)


def test_target_networks_are_hard_copies_every_so_often() -> None:
    algorithm, batch = make(target_update_interval=3), make_batch(seed=1)

    def same() -> bool:
        mine, theirs = algorithm.beside["critic"], algorithm.lagged["critic"].module
        return all(map(torch.equal, mine.state_dict().values(), theirs.state_dict().values()))

    seen = [same()]
    for step in range(6):
        algorithm.update(batch, algorithm.policy.sequence(batch), step)
        seen.append(same())
    assert seen == [True, False, False, True, False, False, True]


def test_averaged_targets_move_by_their_rate() -> None:
    network = torch.nn.Linear(2, 1)
    lagged = Lagged(network, rate=0.005)
    before = lagged.module.weight.clone()
    with torch.no_grad():
        network.weight.add_(1.0)
    lagged.update(0)
    torch.testing.assert_close(lagged.module.weight, before + 0.005)
    assert not lagged.module.weight.requires_grad


def test_resuming_is_exact() -> None:
    through, batches = make(target_update_interval=2), [make_batch(seed=k) for k in range(6)]
    for step in range(3):
        through.update(batches[step], through.policy.sequence(batches[step]), step)
    resumed = make(target_update_interval=2)
    resumed.load_state_dict(copy.deepcopy(through.state_dict()))
    for step in range(3, 6):
        one, other = (
            algorithm.update(batches[step], algorithm.policy.sequence(batches[step]), step)
            for algorithm in (through, resumed)
        )
        assert one == other


# The Fork: in s0 action 0 leads on (reward 0), action 1 ends (reward .6); in s1 action 0 pays
# nothing, action 1 pays 1, and both end. Nobody takes action 2; data are uniform on 0 and 1.
FORK = EnvSpec("fork", "fork", 1, 2, 2, 3, 2, "fork")


def fork_episodes(count: int) -> list[Episode]:
    episodes = []
    for seed in range(count):
        first, second = divmod(seed % 4, 2)  # exactly uniform
        actions, rewards = ([first], [0.6]) if first else ([first, second], [0.0, float(second)])
        steps = len(actions)
        state = np.eye(2, dtype=np.float32)[:steps, None]
        episodes.append(
            Episode(
                observation=state,
                state=state,
                available_actions=np.ones((steps, 1, 3), dtype=bool),
                action=np.array(actions, dtype=np.int64)[:, None],
                reward=np.array(rewards, dtype=np.float32),
                terminated=True,
                truncated=False,
                seed=seed,
            )
        )
    return episodes


def test_one_step_improvement_on_the_fork() -> None:
    torch.manual_seed(0)
    policy = MlpConfig(n_layers=1, d_model=32, return_conditioning=False).build(FORK, "auto")
    settings = ICQConfig(
        learning_rate=3e-3,
        critic_learning_rate=3e-3,
        critic_width=32,
        td_lambda=0.0,
        target_update_interval=20,
        warmup_steps=0,
        weight_decay=0.0,
    )
    algorithm = settings.build(policy, Context(0, CPU, 1500))
    sampler = SequenceSampler(Dataset.from_episodes(FORK, fork_episodes(1000)), 256, seed=0)
    for step in range(1500):
        batch = sampler.batch(step)
        algorithm.update(batch, policy.sequence(batch), step)
    batch = sampler.batch(0)
    row = int((batch.mask.sum(1) == 2).nonzero()[0])
    with torch.no_grad():
        values = algorithm.beside["critic"](batch)[row, 0, 0]
        chances = policy.sequence(batch).logits.softmax(-1)[row, 0, 0]
    assert values[:2].tolist() == pytest.approx([0.495, 0.60], abs=0.03)
    assert float(chances[0]) == pytest.approx(0.259, abs=0.05)
    assert float(chances[2]) < 0.02


@pytest.mark.parametrize("window", [None, 2])
def test_time_limits_do_not_end_the_value(window: int | None) -> None:
    """A game that pays 1 for ever, cut after 4 steps, is worth 1 / (1 - γ) at each of them."""
    spec = EnvSpec("mill", "mill", 1, 2, 2, 2, 4, "mill")
    state = np.ones((4, 1, 2), dtype=np.float32)
    episode = Episode(
        observation=state,
        state=state,
        available_actions=np.ones((4, 1, 2), dtype=bool),
        action=np.array([0, 1, 1, 0])[:, None],
        reward=np.ones(4, dtype=np.float32),
        terminated=False,
        truncated=True,
        seed=0,
        last_observation=state[0],
        last_state=state[0],
        last_available_actions=np.ones((1, 2), dtype=bool),
    )
    torch.manual_seed(0)
    policy = MlpConfig(n_layers=1, d_model=8, return_conditioning=False).build(spec, "auto")
    settings = ICQConfig(
        learning_rate=3e-3,
        critic_learning_rate=3e-3,
        critic_width=16,
        gamma=0.8,
        target_update_interval=10,
        warmup_steps=0,
        schedule="constant",
        weight_decay=0.0,
    )
    algorithm = settings.build(policy, Context(0, CPU, 600))
    sampler = SequenceSampler(Dataset.from_episodes(spec, [episode]), 4, window)
    for step in range(600):
        batch = sampler.batch(step, algorithm.bootstrap)
        algorithm.update(batch, policy.sequence(batch), step)
    with torch.no_grad():
        values = algorithm.beside["critic"](batch)[0, 0, 0]
    assert values.tolist() == pytest.approx([5.0, 5.0], abs=0.25)
