"""The chain of agents: both views agree for every option, and influence runs one way only."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from fakes import SPEC, make_batch, make_policy, time_step
from mads4.algorithms.losses import behavior_cloning
from mads4.models import Mads4Policy, chain
from mads4.models.base import unroll
from mads4.models.communication import from_predecessor, to_agents, to_positions
from mads4.models.state import join, select
from mads4.types import SequenceBatch

THREE = replace(SPEC, n_agents=3)
MESSAGES = ("none", "output", "state", "logits")
DELAYS = (0, 1)
CHAINS = [
    {"message": message, "message_delay": delay, "autoregressive": share}
    for message, delay, share in itertools.product(MESSAGES, DELAYS, (False, True))
]


def name(options: dict[str, Any]) -> str:
    return "-".join(map(str, options.values()))


def play(
    policy: Mads4Policy,
    batch: SequenceBatch,
    order: torch.Tensor | None = None,
    dropped: torch.Tensor | None = None,
) -> tuple[SequenceBatch, torch.Tensor]:
    """Let the policy act on recorded inputs; return what it did as data, and its logits."""
    generator = torch.Generator().manual_seed(0)
    state = policy.initial_state(len(batch.action))
    actions, logits = [], []
    for t in range(batch.action.shape[1]):
        uniform = torch.rand(batch.action[:, t].shape, generator=generator, dtype=torch.float64)
        inputs = replace(
            time_step(batch, t, uniform),
            order_key=None if order is None else order.argsort(1).double(),
            message_dropped=None if dropped is None else dropped[:, t],
        )
        decision, state = policy.step(inputs, state)
        actions.append(decision.action)
        logits.append(decision.logits)
    action = torch.stack(actions, 1)
    previous = torch.cat([torch.full_like(action[:, :1], -1), action[:, :-1]], 1)
    return replace(batch, action=action, previous_action=previous), torch.stack(logits, 1)


def random_order(batch: SequenceBatch) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(len(batch.action), batch.action.shape[2], generator=generator).argsort(1)


@pytest.mark.parametrize("options", CHAINS, ids=name)
@pytest.mark.parametrize("agent_order", ("fixed", "random"))
@pytest.mark.parametrize("drop", (False, True))
@torch.no_grad()
def test_forward_is_step_unrolled(options: dict[str, Any], agent_order: str, drop: bool) -> None:
    batch = make_batch(THREE, padded=False)
    policy = make_policy(THREE, agent_order=agent_order, **options)
    order = random_order(batch) if agent_order == "random" else None
    generator = torch.Generator().manual_seed(4)
    dropped = torch.rand(batch.action.shape, generator=generator) < 0.4 if drop else None
    played, stepped = play(policy, batch, order, dropped)
    forward = policy(played, order=order, dropped=dropped)
    torch.testing.assert_close(forward, stepped, rtol=1e-9, atol=1e-9)


def segment(batch: SequenceBatch, steps: slice) -> SequenceBatch:
    return batch.map(lambda values: values[:, steps])


@pytest.mark.parametrize("options", CHAINS, ids=name)
@pytest.mark.parametrize("agent_order", ("fixed", "random"))
@torch.no_grad()
def test_a_sequence_goes_on_from_either_views_state(
    options: dict[str, Any], agent_order: str
) -> None:
    policy = make_policy(THREE, agent_order=agent_order, **options)
    batch = make_batch(THREE, padded=False)
    order = random_order(batch) if agent_order == "random" else None
    whole = policy.sequence(batch, order=order)
    cut = 5
    first = policy.sequence(segment(batch, slice(0, cut)), order=order, return_state=True)
    rest = segment(batch, slice(cut, None))
    second = policy.sequence(rest, order=order, state=first.state)
    torch.testing.assert_close(second.logits, whole.logits[:, cut:], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(second.latent, whole.latent[:, cut:], rtol=1e-9, atol=1e-9)
    stepped = unroll(policy, rest, order, first.state)
    torch.testing.assert_close(stepped, whole.logits[:, cut:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", CHAINS, ids=name)
def test_both_views_have_the_same_gradients(options: dict[str, Any]) -> None:
    policy = make_policy(THREE, **options)
    batch = make_batch(THREE, padded=False)
    with torch.no_grad():
        begun = policy.sequence(segment(batch, slice(0, 5)), return_state=True).state
    rest = segment(batch, slice(5, None))
    gradients = []
    for logits in (policy.sequence(rest, state=begun).logits, unroll(policy, rest, state=begun)):
        loss, _ = behavior_cloning(logits, rest.action, rest.available_actions, rest.mask)
        policy.zero_grad()
        loss.backward()
        gradients.append({key: p.grad for key, p in policy.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-7, atol=1e-9, msg=key)


@pytest.mark.parametrize("autoregressive", (False, True))
@torch.no_grad()
def test_a_large_batch_is_run_in_parts(
    autoregressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(THREE, message="none", autoregressive=autoregressive)
    batch = make_batch(THREE, padded=False)
    dropped = torch.rand(batch.action.shape) < 0.4
    begun = policy.sequence(batch, return_state=True).state
    whole = policy.sequence(batch, dropped=dropped, state=begun, return_state=True)
    monkeypatch.setattr(chain, "TOKENS", 2 * batch.action.shape[1])
    parts = policy.sequence(batch, dropped=dropped, state=begun, return_state=True)
    torch.testing.assert_close(parts.logits, whole.logits)
    torch.testing.assert_close(parts.latent, whole.latent)
    again = [policy.sequence(batch, state=found.state).logits for found in (parts, whole)]
    torch.testing.assert_close(*again)


@torch.no_grad()
def test_states_are_chosen_and_joined_by_environment() -> None:
    for options in CHAINS:
        policy = make_policy(THREE, **options)
        batch = make_batch(THREE, padded=False)
        state = policy.sequence(batch, return_state=True).state
        rows = torch.tensor([2, 0])
        parts = [select(state, torch.tensor([row])) for row in (2, 0)]
        chosen, joined = select(state, rows), join(parts)
        again = segment(batch, slice(0, 3))
        picked = again.map(lambda values: values[[2, 0]])
        wanted = policy.sequence(again, state=state).logits[rows]
        for found in (chosen, joined):
            torch.testing.assert_close(policy.sequence(picked, state=found).logits, wanted)


@pytest.mark.parametrize(
    "ssm",
    ({"initialization": "real"}, {"parameterization": "dplr", "discretization": "bilinear"}),
    ids=name,
)
@torch.no_grad()
def test_read_outs_of_the_state_agree_for_every_parameterization(ssm: dict[str, str]) -> None:
    policy = make_policy(THREE, message="state", **ssm)
    played, stepped = play(policy, make_batch(THREE, padded=False))
    torch.testing.assert_close(policy(played), stepped, rtol=1e-9, atol=1e-9)


def influence(policy: Mads4Policy, batch: SequenceBatch, agent: int, t: int) -> torch.Tensor:
    """Return who (T, N) notices a change in what one agent observes at one step."""
    other = batch.observation.clone()
    other[:, t, agent] += 1.0
    with torch.no_grad():
        change = policy(replace(batch, observation=other)) - policy(batch)
    return change.nan_to_num().abs().amax(dim=(0, 3)) > 1e-9


@pytest.mark.parametrize("options", CHAINS, ids=name)
@pytest.mark.parametrize("agent", (0, 1, 2))
def test_influence_runs_down_the_chain_only(options: dict[str, Any], agent: int) -> None:
    """Data are given, so shared actions carry nothing here: only messages do."""
    batch, t = make_batch(THREE, padded=False), 4
    reached = influence(make_policy(THREE, **options), batch, agent, t)
    listens = options["message"] != "none"
    delay = options["message_delay"]
    for other in range(3):
        distance = other - agent
        if distance < 0 or (distance > 0 and not listens):
            assert not reached[:, other].any()
            continue
        first = t + distance * delay
        assert not reached[:first, other].any()
        assert reached[first:, other].all()


@pytest.mark.parametrize("message_delay", DELAYS)
@torch.no_grad()
def test_a_shared_action_is_the_predecessors_at_the_stated_time(message_delay: int) -> None:
    batch, t = make_batch(THREE, padded=False), 4
    policy = make_policy(
        THREE, message="none", autoregressive=True, message_delay=message_delay,
        use_previous_action=False, stateless=True,
    )  # fmt: skip
    action = batch.action.clone()
    action[:, t, 1] = (action[:, t, 1] + 1) % SPEC.n_actions
    previous = torch.cat([torch.full_like(action[:, :1], -1), action[:, :-1]], 1)
    before = replace(
        batch,
        previous_action=torch.cat([torch.full_like(action[:, :1], -1), batch.action[:, :-1]], 1),
    )
    change = policy(replace(before, action=action, previous_action=previous)) - policy(before)
    noticed = (change.nan_to_num().abs().amax(dim=(0, 3)) > 1e-9).nonzero().tolist()
    assert noticed == [[t + message_delay, 2]]


@pytest.mark.parametrize("message", MESSAGES[1:])
@pytest.mark.parametrize("message_delay", DELAYS)
@pytest.mark.parametrize("detach", (False, True))
def test_gradients_reach_the_predecessor_unless_detached(
    message: str, message_delay: int, detach: bool
) -> None:
    policy = make_policy(THREE, message=message, message_delay=message_delay, detach_message=detach)
    batch = make_batch(THREE, padded=False)
    observation = batch.observation.clone().requires_grad_()
    policy(replace(batch, observation=observation))[:, :, 2].nan_to_num(neginf=0).sum().backward()
    assert observation.grad is not None
    reached = observation.grad.abs().amax(dim=(0, 1, 3)) > 1e-12
    assert reached.tolist() == [not detach, not detach, True]


@torch.no_grad()
def test_a_dropped_message_is_as_for_the_first_agent() -> None:
    """With agents that differ in nothing but their place, a receiver of nothing is a first."""
    policy = make_policy(THREE, autoregressive=True)
    policy.embedding.agent.weight.zero_()
    batch = make_batch(THREE, padded=False)
    same = {
        key: getattr(batch, key)[:, :, :1].expand_as(getattr(batch, key))
        for key in ("observation", "available_actions", "action", "previous_action")
    }
    batch = replace(batch, **same)
    deaf = policy(batch, dropped=torch.ones_like(batch.action, dtype=torch.bool))
    torch.testing.assert_close(deaf[:, :, 1], deaf[:, :, 0])
    assert not torch.allclose(policy(batch)[:, :, 1], deaf[:, :, 1])


@torch.no_grad()
def test_agents_keep_their_identity_in_any_order() -> None:
    """Without a channel the order does not matter; with one, it does."""
    batch = make_batch(THREE, padded=False)
    order = torch.tensor([[2, 0, 1]]).expand(len(batch.action), 3)
    silent = make_policy(THREE, message="none", agent_order="random")
    torch.testing.assert_close(silent(batch, order=order), silent(batch))
    talking = make_policy(THREE, agent_order="random")
    assert not torch.allclose(talking(batch, order=order), talking(batch))
    first = (talking(batch, order=order) - talking(batch)).nan_to_num().abs().amax((0, 1, 3))
    assert (first > 1e-9).all(), "0 is no longer first, 2 no longer last"


def test_training_draws_order_and_losses_and_validation_does_not() -> None:
    batch = make_batch(THREE, padded=False)
    for options in ({"agent_order": "random"}, {"message_dropout": 0.5}):
        policy = make_policy(THREE, dropout=0.0, **options)
        with torch.no_grad():
            torch.manual_seed(1)
            assert torch.equal(policy.eval()(batch), policy(batch))
            assert torch.equal(torch.random.get_rng_state(), _state_after_seed(1))
            assert not torch.equal(policy.train()(batch), policy(batch))


def _state_after_seed(seed: int) -> torch.Tensor:
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    return after


def test_agents_without_a_choice_teach_nothing() -> None:
    """An absent agent has one action left: it costs no loss and gives no gradient of its own."""
    batch = make_batch(THREE, padded=False)
    available = batch.available_actions.clone()
    available[:, 6:, 1] = False
    available[:, 6:, 1, 0] = True
    action = batch.action.clone()
    action[:, 6:, 1] = 0
    batch = replace(batch, available_actions=available, action=action)
    policy = make_policy(THREE, message="none")
    observation = batch.observation.clone().requires_grad_()
    logits = policy(replace(batch, observation=observation))
    loss, _ = behavior_cloning(logits, batch.action, batch.available_actions, batch.mask)
    loss.backward()
    assert observation.grad is not None
    assert observation.grad[:, 6:, 1].abs().max() == 0.0
    assert observation.grad[:, 5, 1].abs().max() > 0.0


@pytest.mark.parametrize("options", CHAINS, ids=name)
@torch.no_grad()
def test_reset_rows_are_at_their_beginning(options: dict[str, Any]) -> None:
    batch = make_batch(THREE, padded=False)
    policy = make_policy(THREE, **options)
    _, state = policy.step(time_step(batch, 0), policy.initial_state(3))
    rows = torch.tensor([False, True, False])
    mixed, _ = policy.step(time_step(batch, 1), policy.reset_rows(state, rows))
    fresh, _ = policy.step(time_step(batch, 1), policy.initial_state(3))
    going_on, _ = policy.step(time_step(batch, 1), state)
    torch.testing.assert_close(mixed.logits[1], fresh.logits[1])
    torch.testing.assert_close(mixed.logits[[0, 2]], going_on.logits[[0, 2]])


def test_positions_and_agents_are_each_others_inverse() -> None:
    values = torch.arange(24).view(2, 3, 4)
    order = torch.tensor([[2, 0, 1], [0, 2, 1]])
    there = to_positions(values, order, 1)
    assert torch.equal(there[0], values[0, [2, 0, 1]])
    assert torch.equal(to_agents(there, order, 1), values)
    shifted = from_predecessor(values, 1, -1)
    assert shifted[:, 0].eq(-1).all()
    assert torch.equal(shifted[:, 1:], values[:, :-1])


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"message": "telepathy"}, "message.*'none', 'output', 'state' or 'logits'.*'telepathy'"),
        ({"message_delay": 2}, "message_delay.*0 or 1.*2"),
        ({"agent_order": "sorted"}, "agent_order.*'fixed' or 'random'.*'sorted'"),
    ),
)
def test_unknown_choices_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Mads4Policy(SPEC, **options)
