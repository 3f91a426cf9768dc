"""The transformer: both views agree for every context, and a window is all that it remembers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import SPEC, make_batch, matching_data, time_step
from mads4.algorithms.base import Context
from mads4.algorithms.bc import BCConfig
from mads4.data.consecutive import ConsecutiveSampler
from mads4.export.agent import Agent
from mads4.export.check import largest_difference
from mads4.models import TransformerConfig, TransformerPolicy
from mads4.models.base import unroll
from mads4.models.state import join, leaves, select
from mads4.training.offline import OfflineTrainer
from mads4.training.tbptt import TruncatedBPTT
from mads4.types import SequenceBatch

THREE = replace(SPEC, n_agents=3)
SMALL: dict[str, Any] = {"n_layers": 2, "d_model": 8, "n_heads": 2, "feed_forward": 12}
CONTEXTS = (1, 3, 12, None)
INPUTS: list[dict[str, Any]] = [
    {},
    {"return_conditioning": False},
    {"use_previous_action": False},
    {"use_global_state": False, "return_conditioning": False, "use_previous_action": False},
    {"normalization": "per_agent"},
]


def make(**options: Any) -> TransformerPolicy:
    torch.manual_seed(0)
    return TransformerPolicy(THREE, **(SMALL | options)).double().eval()


def cut(batch: SequenceBatch, steps: slice) -> SequenceBatch:
    return batch.map(lambda values: values[:, steps])


@pytest.mark.parametrize("context_length", CONTEXTS)
@pytest.mark.parametrize("inputs", INPUTS, ids=lambda o: "-".join(o) or "all")
@torch.no_grad()
def test_forward_is_step_unrolled_and_sequences_continue(
    inputs: dict[str, Any], context_length: int | None
) -> None:
    policy, batch = make(context_length=context_length, **inputs), make_batch(THREE, padded=False)
    whole = policy.sequence(batch)
    torch.testing.assert_close(unroll(policy, batch), whole.logits)
    first = policy.sequence(cut(batch, slice(0, 5)), return_state=True)
    rest = cut(batch, slice(5, None))
    torch.testing.assert_close(unroll(policy, rest, state=first.state), whole.logits[:, 5:])
    second = policy.sequence(rest, state=first.state, return_state=True)
    torch.testing.assert_close(second.logits, whole.logits[:, 5:])
    torch.testing.assert_close(second.latent, whole.latent[:, 5:])
    after = policy.sequence(batch, return_state=True).state
    for found, wanted in zip(leaves(second.state), leaves(after), strict=True):
        torch.testing.assert_close(found, wanted)


def test_both_views_have_the_same_gradients() -> None:
    policy, batch = make(context_length=3), make_batch(THREE, padded=False)
    gradients = []
    for logits in (policy.sequence(batch).logits, unroll(policy, batch)):
        policy.zero_grad()
        logits.nan_to_num(neginf=0.0).square().sum().backward()
        gradients.append([p.grad for p in policy.parameters()])
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    policy, batch = make(context_length=4), make_batch(THREE)
    short = batch.map(lambda values: values[2:, :8])
    assert short.mask.all()
    torch.testing.assert_close(policy(batch)[2:, :8], policy(short))


@pytest.mark.parametrize(("context_length", "reach"), [(1, 1), (2, 3), (None, 8)])
@torch.no_grad()
def test_influence_reaches_as_far_as_the_window_and_no_other_agent(
    context_length: int | None, reach: int
) -> None:
    """Two layers, each of which looks `context_length` steps back."""
    policy, batch = make(context_length=context_length), make_batch(THREE, padded=False)
    other = batch.observation.clone()
    other[:, 4, 1] += 1.0
    change = policy(replace(batch, observation=other)) - policy(batch)
    noticed = change.nan_to_num().abs().amax(dim=(0, 3)) > 1e-12
    assert noticed[:, 1].nonzero().flatten().tolist() == list(range(4, 4 + reach))
    assert not noticed[:, [0, 2]].any()


@torch.no_grad()
def test_environments_at_different_steps_share_a_batch() -> None:
    policy, batch = make(context_length=3), make_batch(THREE, padded=False)
    state = policy.sequence(cut(batch, slice(0, 4)), return_state=True).state
    before = copy.deepcopy(state)
    rows = torch.tensor([False, True, False])
    mixed = policy.reset_rows(state, rows)
    assert mixed["memory"]["steps"][:, 0].tolist() == [4, 0, 4]
    output, _ = policy.step(time_step(batch, 4), mixed)
    fresh, _ = policy.step(time_step(batch, 4), policy.initial_state(3))
    going_on, _ = policy.step(time_step(batch, 4), state)
    torch.testing.assert_close(output.logits[rows], fresh.logits[rows])
    torch.testing.assert_close(output.logits[~rows], going_on.logits[~rows])
    joined = join([select(mixed, torch.tensor([row])) for row in (2, 0, 1)])
    for found, wanted in zip(leaves(joined), leaves(mixed), strict=True):
        assert torch.equal(found, wanted[[2, 0, 1]])
    for found, wanted in zip(leaves(state), leaves(before), strict=True):
        assert torch.equal(found, wanted), "a step changes no state"


@torch.no_grad()
def test_a_cache_may_be_written_in_place() -> None:
    policy, batch = make(context_length=3), make_batch(THREE, padded=False)
    wanted = unroll(policy, batch)
    policy.in_place = True
    torch.testing.assert_close(unroll(policy, batch), wanted, rtol=0, atol=0)
    state = policy.initial_state(3)
    _, after = policy.step(time_step(batch, 0), state)
    assert after["memory"]["cache"][0].data_ptr() == state["memory"]["cache"][0].data_ptr()


@torch.no_grad()
def test_windows_with_a_carried_state_are_the_whole_cut_up() -> None:
    data = matching_data(6)
    torch.manual_seed(0)
    policy = TransformerPolicy(SPEC, **SMALL, context_length=5).double().eval()
    sampler, carry = ConsecutiveSampler(data, 1, 3, seed=5), TruncatedBPTT(policy)
    seen: list[SequenceBatch] = []
    for step in range(8):
        batch = sampler.batch(step)
        seen = [batch] if sampler.begins(step)[0] else [*seen, batch]
        found = carry.sequence(batch, sampler.begins(step)).logits
        fields = vars(batch)
        whole = SequenceBatch(**{k: torch.cat([vars(b)[k] for b in seen], 1) for k in fields})
        torch.testing.assert_close(found, policy(whole)[:, -found.shape[1] :])


def trainer() -> OfflineTrainer:
    data = matching_data(6)
    torch.manual_seed(0)
    policy = TransformerPolicy(SPEC, **SMALL, context_length=2, dropout=0.1)
    settings = BCConfig(weight_decay=0.0, warmup_steps=0, schedule="constant")
    training, held_out = data.split(0.2, 0)
    sampler = ConsecutiveSampler(training, 2, 3)
    algorithm = settings.build(policy, Context(0, torch.device("cpu"), 20))
    return OfflineTrainer(algorithm, sampler, held_out)


def test_resuming_in_the_middle_of_episodes_is_exact(tmp_path: Path) -> None:
    through, resumed = trainer(), trainer()
    for step in range(3):
        through.update(step)
    torch.save(through.state_dict(), tmp_path / "state.pt")
    stream = torch.get_rng_state()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    losses = []
    for one in (through, resumed):
        torch.set_rng_state(stream)
        losses.append([one.update(step)["loss"] for step in range(3, 7)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("context_length", [2, None])
def test_an_agent_alone_is_the_policy(context_length: int | None) -> None:
    for number in (None, 1):
        agent = Agent(make(context_length=context_length), number)

        def play(given: Any, agent: Agent = agent) -> dict[str, torch.Tensor]:
            values = agent(*[given[port.name] for port in agent.inputs])
            return {port.name: value for port, value in zip(agent.outputs, values, strict=True)}

        assert largest_difference(make(context_length=context_length), agent, play) < 2e-6
    names = [port.name for port in agent.outputs]
    assert names == ["logits", "memory_0_out", "memory_1_out", "memory_2_out"]


def test_sizes() -> None:
    with pytest.raises(
        ValueError, match=r"d_model: got 8, expected an even number that model\.n_heads 3"
    ):
        TransformerPolicy(SPEC, d_model=8, n_heads=3)
    assert TransformerConfig().problems("model") == []
    assert TransformerConfig(d_model=9, n_heads=3).problems("model") == [
        "model.d_model: got 9, expected an even number that model.n_heads 3 divides"
    ]
    memory = make(context_length=41).initial_memory(2)
    assert memory["cache"][0].shape == (2, 3, 2, 2, 41, 3, 4)
    assert np.unique(memory["steps"]).tolist() == [0]
