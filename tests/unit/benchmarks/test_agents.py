from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from harness.agents import (
    ACTIONS,
    DECISION,
    MESSAGES_OF,
    OBSERVATION,
    POLICIES,
    STATE,
    TRAINING,
    TRANSFORMER,
    USUAL,
    AgentCell,
    agent_workload,
    policy_of,
    prepared,
    remembered_bytes,
    transformer_of_size,
)
from harness.agents_rows import AgentRow, fit, growth, growth_text
from harness.agents_suite import AgentGrid, AgentSettings, AgentSuite
from harness.measure import Effort
from mads4.models import TransformerPolicy
from mads4.models.base import parameter_count, unroll
from mads4.models.state import leaves
from mads4.types import EnvSpec, PolicyInput, SequenceBatch

CELL = AgentCell(TRAINING, "output", 3, 6, 2, 8, 4, "diagonal", "cpu")
SPEC = EnvSpec("random", "", 3, OBSERVATION, STATE, ACTIONS, 80, "none")


def transformer() -> TransformerPolicy:
    torch.manual_seed(3)
    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 4, "feed_forward": 9}
    return TransformerPolicy(SPEC, **sizes, dropout=0.0, context_length=None).eval()


def episode(steps: int, batch: int = 2) -> SequenceBatch:
    torch.manual_seed(4)
    shape = (batch, steps, SPEC.n_agents)
    action = torch.randint(ACTIONS, shape)
    available = torch.rand(*shape, ACTIONS) < 0.7
    return SequenceBatch(
        observation=torch.randn(*shape, OBSERVATION),
        state=torch.randn(batch, steps, 1, STATE),
        available_actions=available.scatter(-1, action.unsqueeze(-1), True),
        action=action,
        previous_action=torch.cat([torch.full_like(action[:, :1], -1), action[:, :-1]], dim=1),
        return_to_go=torch.rand(batch, steps),
        reward=torch.rand(batch, steps),
        terminated=torch.zeros(batch, steps, dtype=torch.bool),
        follows=torch.ones(batch, steps, dtype=torch.bool),
        mask=torch.ones(batch, steps, dtype=torch.bool),
    )


@torch.inference_mode()
def test_cached_steps_equal_the_whole_sequence() -> None:
    batch = episode(70)
    policy = transformer()
    torch.testing.assert_close(unroll(policy, batch), policy(batch), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_transformer_does_not_see_the_future() -> None:
    policy, batch = transformer(), episode(9)
    before = policy(batch)
    observation = batch.observation.clone()
    observation[:, 5] += 1.0
    after = policy(replace(batch, observation=observation))
    assert torch.equal(before[:, :5], after[:, :5])
    finite = torch.isfinite(before[:, 6])
    assert not torch.allclose(before[:, 6][finite], after[:, 6][finite])
    action = batch.action.clone()
    action[:, 5] = (action[:, 5] + 1) % ACTIONS  # a target, not an input
    assert torch.equal(policy(replace(batch, action=action)), before)


def test_every_input_of_the_transformer_counts() -> None:
    policy, batch = transformer(), episode(7)
    observation, state, asked = (
        values.requires_grad_() for values in (batch.observation, batch.state, batch.return_to_go)
    )
    logits = policy(batch)[:, 4]
    found = torch.autograd.grad(logits[torch.isfinite(logits)].sum(), (observation, state, asked))
    for gradient in found:
        assert gradient[:, :5].abs().sum() > 0.0
        assert not gradient[:, 5:].any()
    action = batch.previous_action.clone()
    action[:, 3] = (action[:, 3] + 1) % ACTIONS
    changed = policy(replace(batch, previous_action=action))[:, 4]
    assert not torch.allclose(changed[torch.isfinite(logits)], logits[torch.isfinite(logits)])


def test_actions_are_drawn_as_asked() -> None:
    policy, batch = transformer(), episode(1)
    inputs = PolicyInput(
        batch.observation[:, 0],
        batch.state[:, 0],
        batch.available_actions[:, 0],
        batch.return_to_go[:, 0],
        torch.rand(2, SPEC.n_agents, dtype=torch.float64),
    )
    first, state = policy.step(inputs, policy.initial_state(2))
    again, _ = policy.step(inputs, policy.initial_state(2))
    assert torch.equal(first.action, again.action)
    assert torch.equal(state["previous_action"], first.action)
    assert torch.equal(state["memory"]["steps"], torch.ones(2, SPEC.n_agents, dtype=torch.int64))
    assert inputs.available_actions.gather(-1, first.action.unsqueeze(-1)).all()


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="n_heads 4 divides"):
        TransformerPolicy(SPEC, d_model=18)


def test_a_transformer_of_about_so_many_parameters() -> None:
    assert parameter_count(
        transformer_of_size(SPEC, 60_000, n_layers=3, d_model=32)
    ) == pytest.approx(60_000, rel=0.005)
    like = policy_of(replace(CELL, policy=TRANSFORMER, channels=96, state=96))
    assert parameter_count(like) == pytest.approx(
        parameter_count(policy_of(replace(CELL, channels=96, state=96))), rel=0.005
    )


def test_names_describe_messages() -> None:
    assert len(MESSAGES_OF) == 15
    assert set(USUAL) < set(POLICIES)
    assert MESSAGES_OF["state-previous+action"] == {
        "message": "state",
        "message_delay": 1,
        "autoregressive": True,
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_trains_and_decides(policy: str) -> None:
    cell = replace(CELL, policy=policy)
    training = agent_workload(cell)
    assert training.forward_backward is not None
    gradients = training.forward_backward()
    assert isinstance(gradients, tuple)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    deciding = agent_workload(replace(cell, case=DECISION))
    assert deciding.forward_backward is None
    with deciding.context():
        decision, state = deciding.forward()  # type: ignore[misc]
    assert decision.action.shape == (2, 3)
    assert torch.equal(state["previous_action"], decision.action)


def test_what_is_remembered_is_the_size_of_the_state() -> None:
    cell = replace(CELL, case=DECISION)
    state = policy_of(cell).initial_state(1)
    assert remembered_bytes(cell) == 3 * (3 * 8 * 4 * 4 + 8)
    assert sum(s.numel() for stack in state["stacks"] for s in stack) == 3 * 3 * 8 * 4  # type: ignore[union-attr]
    assert remembered_bytes(replace(cell, steps=100)) == remembered_bytes(cell)
    attending = replace(cell, policy=TRANSFORMER)
    grown = remembered_bytes(replace(attending, steps=100)) - remembered_bytes(attending)
    policy = policy_of(replace(attending, steps=93))  # a cache of 94 steps
    assert isinstance(policy, TransformerPolicy)
    assert grown == sum(cache.nbytes for cache in leaves(policy.initial_memory(1)["cache"]))


def test_a_prepared_training_step_runs() -> None:
    assert isinstance(prepared(CELL)(), tuple)
    with pytest.raises(ValueError, match="no backward pass"):
        prepared(replace(CELL, case=DECISION))


def test_growth_of_straight_lines_and_powers() -> None:
    agents = [2, 4, 8, 16]
    line = fit(agents, [1.0 + 0.5 * n for n in agents])
    assert line is not None
    assert (line.constant_ms, line.per_agent_ms) == pytest.approx((1.0, 0.5))
    assert line.largest_error == pytest.approx(0.0, abs=1e-9)
    assert line.exponent < line.last_exponent < 1.0
    square = fit(agents, [0.1 * n**2 for n in agents])
    assert square is not None
    assert (square.exponent, square.last_exponent) == pytest.approx((2.0, 2.0))
    assert square.largest_error > 0.2
    assert fit([2, 4], [1.0, 2.0]) is None


def test_growth_of_each_curve() -> None:
    rows = [
        AgentRow(case, "output", "diagonal", "cpu", n, steps, 1, 8, 4, ms=2.0 * n, ms_min=float(n))
        for case, steps in ((TRAINING, 50), (DECISION, 0))
        for n in (2, 4, 8)
    ]
    rows.append(replace(rows[0], agents=16, ms=None, note="left out"))
    rows.append(replace(rows[3], steps=50))
    fits = growth(rows)
    assert [(found["case"], found["steps"]) for found in fits] == [(TRAINING, 50), (DECISION, 0)]
    assert fits[0]["per_agent_ms"] == pytest.approx(1.0)
    text = growth_text(fits)
    assert text.count("\n") == 3
    assert " any " in text


def suite(**limits: float) -> AgentSuite:
    settings = AgentSettings(
        effort=Effort(2, 0.0, 1.0),
        threads=1,
        control_size=16,
        max_run_seconds=limits.get("seconds", 9.0),
        max_mebibytes=limits.get("mebibytes", 900.0),
    )
    return AgentSuite(settings, torch.device("cpu"))


def test_what_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.memory.reason_against", lambda device: "not now")
    cells = [CELL, replace(CELL, agents=300_000_000)]
    small, large = suite().rows(cells)
    assert small.ms is not None
    assert small.agent_steps_per_second == pytest.approx(1e3 * CELL.agent_steps / small.ms)
    assert large.ms is None
    assert "more than 9" in large.note

    decision = replace(CELL, case=DECISION, policy=TRANSFORMER, steps=10_000_000)
    (kept,) = suite().rows([decision])
    assert kept.ms is None
    assert "states of about" in kept.note


def test_plans_begin_with_what_the_others_are_compared_with() -> None:
    grid = AgentGrid(
        ["output", "none", TRANSFORMER], [2, 4], [5, 50], 100, [1, 3], 8, 4, "diagonal", "cpu"
    )
    cells = grid.cells()
    assert cells[0].policy == "none"
    assert {(c.steps, c.batch) for c in cells if c.case == TRAINING} == {(5, 20), (50, 2)}
    deciding = [c for c in cells if c.case == DECISION]
    assert {(c.agents, c.batch) for c in deciding if c.policy == "none" and c.steps} == {(2, 1)}
    assert {c.steps for c in deciding if c.policy == TRANSFORMER} == {5, 50}
    assert len(cells) == len(set(cells))


def test_agents_from_end_to_end(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--quick", "--threads", "1", "--device", "cpu", "--agents", "2,3,4", "--lengths", "4")
    few = ("--policies", "none,transformer", "--environments", "1")
    assert bench("agents", *words, *few) == 0
    folder = tmp_path / "outputs" / "bench"
    with (folder / "agents.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 + 6 + 1
    for row in rows:
        assert float(row["ms"]) > 0.0
        assert float(row["control_ms"]) > 0.0
        assert bool(row["remembered_kib"]) == (row["case"] == DECISION)
    assert {
        row["over_none"] for row in rows if row["policy"] == "none" and row["steps"] != "4"
    } == {"1"}
    header = json.loads((folder / "agents.json").read_text(encoding="utf-8"))
    assert len(header["growth"]) == 4
    assert header["grid"]["policies"] == ["none", "transformer"]
    with Image.open(folder / "agents.png") as picture:
        assert min(picture.size) > 400
    assert "a + b n" in capsys.readouterr().out


def test_unknown_policies_are_refused(
    bench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("agents", "--policies", "ouput") == 2
    assert "Did you mean 'output'?" in capsys.readouterr().err
