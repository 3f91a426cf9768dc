"""The policy's two views, what may depend on what, and how actions are drawn."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import SPEC, make_batch, make_policy, time_step
from mads4.models import Mads4Policy
from mads4.models.base import choose_actions, parameter_count
from mads4.types import PolicyInput, SequenceBatch

WAREHOUSE = replace(SPEC, obs_dim=71, state_dim=250, n_actions=5, episode_limit=500)


def steps_of(policy: Mads4Policy, batch: SequenceBatch) -> torch.Tensor:
    """Return the logits of `policy.step` along recorded trajectories, (B, T, N, n_actions)."""
    state = policy.initial_state(len(batch.action))
    logits = []
    for t in range(batch.action.shape[1]):
        decision, state = policy.step(time_step(batch, t), state)
        # What was executed is what the data says, not what this policy would do.
        state |= {"previous_action": batch.action[:, t]}
        logits.append(decision.logits)
    return torch.stack(logits, dim=1)


def changed(batch: SequenceBatch, name: str, where: Any, by: float = 1.0) -> SequenceBatch:
    values = getattr(batch, name).clone()
    values[where] += torch.tensor(by, dtype=torch.float32).to(values.dtype)
    return replace(batch, **{name: values})


def finite(logits: torch.Tensor) -> torch.Tensor:
    return logits.nan_to_num(neginf=-1e3)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"message": "none"},
    {"return_conditioning": False},
    {"use_global_state": False},
    {"use_previous_action": False},
    {"stateless": True},
    {"parameterization": "dplr", "discretization": "bilinear"},
    {"discretization": "bilinear", "message": "none"},
    {
        "n_layers": 1,
        "return_conditioning": False,
        "use_global_state": False,
        "use_previous_action": False,
    },
]


@pytest.mark.parametrize("n_agents", [1, 2, 3])
@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())) or "all")
def test_forward_is_step_unrolled(options: dict[str, Any], n_agents: int) -> None:
    spec = replace(SPEC, n_agents=n_agents, state_per_agent=n_agents == 3)
    batch = make_batch(spec)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        policy = make_policy(spec, dtype, **options)
        with torch.no_grad():
            forward, stepped = policy(batch), steps_of(policy, batch)
        assert forward.dtype == stepped.dtype == dtype
        assert forward.shape == (3, 12, n_agents, spec.n_actions)
        assert torch.equal(forward.isneginf(), ~batch.available_actions)
        real = batch.mask
        torch.testing.assert_close(forward[real], stepped[real], rtol=tolerance, atol=tolerance)


def test_padding_changes_nothing() -> None:
    policy, batch = make_policy(), make_batch()
    short = SequenceBatch(**{f.name: getattr(batch, f.name)[2:, :8] for f in fields(batch)})
    assert short.mask.all()
    with torch.no_grad():
        torch.testing.assert_close(policy(batch)[2:, :8], policy(short), rtol=1e-12, atol=1e-12)


def test_uint8_states_are_taken_as_they_are() -> None:
    policy, batch = make_policy(), make_batch(batch=2)
    policy.embedding.set_normalization({"state_mean": torch.zeros(3), "state_std": torch.ones(3)})
    binary = (batch.state > 0).to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(
            policy(replace(batch, state=binary)), policy(replace(batch, state=binary.float()))
        )


@pytest.mark.parametrize("message", ["none", "output"])
@pytest.mark.parametrize("name", ["observation", "state", "return_to_go", "previous_action"])
def test_nothing_depends_on_the_future(message: str, name: str) -> None:
    policy, batch = make_policy(message=message), make_batch(padded=False)
    with torch.no_grad():
        before = finite(policy(batch))
        after = finite(policy(changed(batch, name, (slice(None), 5), -1.0)))
    # The convolution runs through an FFT: rounding reaches everywhere, at 1e-16 or so.
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-12)
    assert (before[:, 5:] - after[:, 5:]).abs().amax(dim=(0, 2, 3)).min() > 1e-9


def test_without_memory_only_the_present_counts() -> None:
    policy, batch = make_policy(stateless=True), make_batch(padded=False)
    with torch.no_grad():
        difference = policy(changed(batch, "observation", (slice(None), 5))) - policy(batch)
    touched = finite(difference).nan_to_num().abs().amax(dim=(0, 2, 3)) > 1e-9
    assert touched.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("message", ["none", "output"])
@pytest.mark.parametrize("agent", [0, 1, 2])
def test_who_receives_from_whom(message: str, agent: int) -> None:
    """Own inputs reach oneself; with messages they also reach all later agents, never earlier."""
    spec = replace(SPEC, n_agents=3)
    policy, batch = make_policy(spec, message=message), make_batch(spec, padded=False)
    with torch.no_grad():
        other = changed(batch, "observation", (slice(None), 4, agent))
        difference = (finite(policy(other)) - finite(policy(batch))).abs().amax(dim=(0, 3))
    reached = [i for i in range(3) if difference[4:, i].max() > 1e-9]
    assert reached == ([agent] if message == "none" else list(range(agent, 3)))
    assert difference[4, reached].min() > 1e-9, "within the same step"
    unreached = [i for i in range(3) if i not in reached]
    assert (difference[:, unreached] < 1e-12).all()


def test_without_messages_an_agent_is_its_inputs() -> None:
    """Same inputs and same identity: same logits, whatever the other agent sees."""
    policy, batch = make_policy(message="none"), make_batch(padded=False)
    with torch.no_grad():
        policy.embedding.agent.weight[1] = policy.embedding.agent.weight[0]
        swapped = replace(
            batch,
            **{
                name: getattr(batch, name).flip(2)
                for name in ("observation", "available_actions", "action", "previous_action")
            },
        )
        torch.testing.assert_close(policy(swapped).flip(2), policy(batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("message", ["none", "output"])
def test_the_loss_of_an_agent_teaches_its_predecessor_to_talk(message: str) -> None:
    policy, batch = make_policy(message=message), make_batch(padded=False)
    observation = batch.observation.clone().requires_grad_()
    logits = policy(replace(batch, observation=observation))
    finite(logits[:, :, 1]).sum().backward()
    assert observation.grad is not None
    assert (observation.grad[:, :, 0].abs().max() > 1e-9) == (message == "output")
    assert observation.grad[:, :, 1].abs().max() > 1e-9
    if message == "output":
        channel = policy.channel
        assert channel.project is not None
        assert channel.message_in is not None
        for written_or_read in (channel.project.weight, channel.message_in.weight):
            assert written_or_read.grad is not None
            assert written_or_read.grad.abs().max() > 0


def test_initial_state_and_reset_rows_are_a_fresh_start() -> None:
    for message in ("none", "output"):
        policy, batch = make_policy(message=message), make_batch(padded=False)
        with torch.no_grad():
            _, state = policy.step(time_step(batch, 0), policy.initial_state(3))
            _, state = policy.step(time_step(batch, 1), state)
            rows = torch.tensor([False, True, False])
            mixed = policy.reset_rows(state, rows)
            fresh, _ = policy.step(time_step(batch, 2), policy.initial_state(3))
            going_on, _ = policy.step(time_step(batch, 2), state)
            after, _ = policy.step(time_step(batch, 2), mixed)
        assert mixed["previous_action"][1].eq(-1).all()
        assert torch.equal(after.logits[rows], fresh.logits[rows])
        assert torch.equal(after.logits[~rows], going_on.logits[~rows])
        assert not torch.equal(fresh.logits, going_on.logits)


def test_a_state_keeps_the_executed_actions() -> None:
    policy, batch = make_policy(), make_batch()
    uniform = torch.rand(3, 2, dtype=torch.float64)
    decision, state = policy.step(time_step(batch, 0, uniform), policy.initial_state(3))
    assert torch.equal(state["previous_action"], decision.action)


@pytest.mark.parametrize("message", ["none", "output"])
def test_rows_do_not_depend_on_the_batch_they_are_in(message: str) -> None:
    policy, batch = make_policy(message=message), make_batch(batch=5, padded=False)
    with torch.no_grad():
        together = steps_of(policy, batch)
        for row in range(5):
            alone = SequenceBatch(
                **{f.name: getattr(batch, f.name)[row : row + 1] for f in fields(batch)}
            )
            torch.testing.assert_close(
                steps_of(policy, alone)[0], together[row], rtol=0, atol=1e-12
            )


def test_inputs_are_normalized() -> None:
    policy, batch = make_policy(use_previous_action=False), make_batch()
    embedding = policy.embedding
    with torch.no_grad():
        given = policy(batch)
        scaled = replace(
            batch,
            observation=(batch.observation - embedding.observation_mean)
            / embedding.observation_std,
            state=(batch.state - embedding.state_mean) / embedding.state_std,
            return_to_go=batch.return_to_go.double() / embedding.return_scale,
        )
        embedding.set_normalization(
            {
                "observation_mean": torch.zeros(5),
                "observation_std": torch.ones(5),
                "state_mean": torch.zeros(3),
                "state_std": torch.ones(3),
                "return_scale": torch.tensor(1.0),
            }
        )
        torch.testing.assert_close(policy(scaled), given, rtol=0, atol=1e-12)
    assert {name for name, _ in policy.named_buffers()} == {
        f"embedding.{name}"
        for name in (
            *("observation_mean", "observation_std", "state_mean", "state_std"),
            "return_scale",
        )
    }


def test_switched_off_inputs_have_no_influence() -> None:
    for flag, name in (
        ("return_conditioning", "return_to_go"),
        ("use_global_state", "state"),
        ("use_previous_action", "previous_action"),
    ):
        policy, batch = make_policy(**{flag: False}), make_batch()
        with torch.no_grad():
            other = changed(batch, name, slice(None))
            assert torch.equal(policy(other), policy(batch))


def test_the_default_network_has_some_150_000_parameters() -> None:
    count = parameter_count(Mads4Policy(WAREHOUSE))
    without = parameter_count(Mads4Policy(WAREHOUSE, message="none"))
    assert 140_000 < without < count < 200_000
    assert count - without == (96 * 16 + 16) + 16 * 96
    alone = replace(WAREHOUSE, n_agents=1)
    assert parameter_count(Mads4Policy(alone)) == parameter_count(
        Mads4Policy(alone, message="none")
    )


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"(?s)message.*'none', 'output'.*'telepathy'"):
        Mads4Policy(SPEC, message="telepathy")
    with pytest.raises(ValueError, match="parameterization"):
        Mads4Policy(SPEC, parameterization="dense")


def drawn(probabilities: list[float], uniforms: np.ndarray) -> torch.Tensor:
    logits = torch.tensor(probabilities, dtype=torch.float64).log().expand(len(uniforms), 1, -1)
    return choose_actions(logits, torch.from_numpy(uniforms)[:, None])[:, 0]


def test_drawn_frequencies_are_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6) * 2
    logits[0] = logits[3] = logits[5] = -torch.inf
    stratified = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    actions = choose_actions(logits.expand(100_000, 1, 6), stratified[:, None])
    frequencies = actions.flatten().bincount(minlength=6) / 100_000
    torch.testing.assert_close(frequencies, logits.softmax(0), rtol=0, atol=2e-5)
    assert frequencies[[0, 3, 5]].eq(0).all()


EDGES = [0.0, 5e-324, 1e-300, 0.5, 1 - 2**-24, 1 - 2**-53]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_unavailable_actions_are_never_drawn(data: st.DataObject) -> None:
    n_actions = data.draw(st.integers(1, 9))
    finite_logit = st.floats(-60, 60, width=32)
    available = data.draw(
        st.lists(st.booleans(), min_size=n_actions, max_size=n_actions).filter(any)
    )
    values = data.draw(st.lists(finite_logit, min_size=n_actions, max_size=n_actions))
    uniform = data.draw(st.sampled_from(EDGES) | st.floats(0, 1, exclude_max=True))
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor(values, dtype=dtype)
        logits[~torch.tensor(available)] = -torch.inf
        row = logits.view(1, 1, -1)
        sampled = int(choose_actions(row, torch.tensor([[uniform]], dtype=torch.float64)))
        likeliest = int(choose_actions(row, None))
        assert available[sampled]
        assert logits[likeliest] == logits.max()


def test_edges_of_the_uniform_numbers() -> None:
    edges = np.array(EDGES)
    assert drawn([0.0, 0.25, 0.75, 0.0], edges).tolist() == [1, 1, 1, 2, 2, 2]
    assert drawn([0.0, 0.0, 1.0], edges).tolist() == [2] * 6
    assert drawn([1.0, 0.0, 0.0], edges).tolist() == [0] * 6
    assert drawn([0.5, 0.5], np.array([0.5 - 1e-9, 0.5])).tolist() == [0, 1]


def test_without_uniforms_the_likeliest_is_taken() -> None:
    policy, batch = make_policy(), make_batch()
    decision, _ = policy.step(time_step(batch, 0), policy.initial_state(3))
    assert torch.equal(decision.action, decision.logits.argmax(-1))
    assert batch.available_actions[:, 0].gather(-1, decision.action.unsqueeze(-1)).all()


def test_inputs_may_be_in_any_floating_point_type() -> None:
    policy, batch = make_policy(dtype=torch.float32), make_batch()
    inputs = time_step(batch, 0)
    double = PolicyInput(
        observation=inputs.observation.double(),
        state=inputs.state.double(),
        available_actions=inputs.available_actions,
        return_to_go=inputs.return_to_go.double(),
        uniform=None,
    )
    first, _ = policy.step(inputs, policy.initial_state(3))
    second, _ = policy.step(double, policy.initial_state(3))
    assert torch.equal(first.logits, second.logits)
