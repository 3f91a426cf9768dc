"""One optimization: schedule, groups, validation, learning, and what a checkpoint restores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fakes import SPEC, make_policy, matching_data
from mads4.algorithms.base import Context, SSMLearningRates, schedule_factor
from mads4.algorithms.bc import BCConfig
from mads4.algorithms.losses import behavior_cloning
from mads4.data.sampler import SequenceSampler
from mads4.models import Mads4Policy
from mads4.nn.ssm import StateSpace
from mads4.training.offline import OfflineTrainer

STEPS = 40
SETTINGS = BCConfig(
    learning_rate=1e-2,
    ssm_learning_rate=SSMLearningRates(A=1e-3, B=2e-3, dt=3e-3),
    weight_decay=0.1,
    warmup_steps=4,
)


def make_trainer(
    policy: Mads4Policy | None = None, settings: BCConfig = SETTINGS, **options: Any
) -> OfflineTrainer:
    training, held_out = matching_data().split(0.25, 0)
    if policy is None:
        torch.manual_seed(1)
        policy = Mads4Policy(SPEC, n_layers=1, d_model=16, d_state=4, message_dim=3, **options)
    sampler = SequenceSampler(training, batch_size=4, window=None, seed=0)
    algorithm = settings.build(policy, Context(0, torch.device("cpu"), STEPS))
    return OfflineTrainer(algorithm, sampler, held_out)


def test_schedule() -> None:
    rates = [schedule_factor(step, STEPS, SETTINGS) for step in range(41)]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(41)]
    assert rates[:4] == pytest.approx(
        [0.25 * cosine[0], 0.5 * cosine[1], 0.75 * cosine[2], cosine[3]]
    )
    assert rates[4:] == pytest.approx(cosine[4:])
    assert rates[39] > 0 and rates[40] == pytest.approx(0)
    constant = SETTINGS.model_copy(update={"schedule": "constant", "warmup_steps": 2})
    assert [schedule_factor(step, STEPS, constant) for step in (0, 1, 2, 39)] == [0.5, 1, 1, 1]
    assert schedule_factor(0, STEPS, SETTINGS.model_copy(update={"warmup_steps": 0})) == 1


def test_every_parameter_is_in_the_group_it_belongs_to() -> None:
    policy = make_policy(dtype=torch.float32)
    trainer = make_trainer(policy)
    decayed, plain, *ssm = trainer.algorithm.optimizer.param_groups
    names = {id(parameter): name for name, parameter in policy.named_parameters()}

    def last(group: dict[str, Any]) -> set[str]:
        return {names[id(parameter)].rpartition(".s4.ssm.")[2] for parameter in group["params"]}

    fields = ({"log_decay", "frequency"}, {"column"}, {"row"}, {"log_dt"}, {"feedthrough"})
    assert tuple(map(last, ssm)) == fields  # A, B, C, dt, D
    assert [group["lr"] for group in ssm] == [1e-3, 2e-3, 1e-2, 3e-3, 1e-2]
    assert [group["weight_decay"] for group in ssm] == [0, 0, 0.1, 0, 0]
    assert (plain["lr"], decayed["lr"], plain["weight_decay"]) == (1e-2, 1e-2, 0)
    assert decayed["weight_decay"] == 0.1
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in plain["params"])
    grouped = [id(p) for group in trainer.algorithm.optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(names)


@pytest.mark.parametrize("frozen", [("A", "B", "C", "dt", "D"), ("A", "B", "dt"), ("B", "C", "D")])
def test_frozen_parameters_stay(frozen: tuple[str, ...]) -> None:
    trainer = make_trainer(settings=SETTINGS.model_copy(update={"freeze": frozen}))
    (space,) = [part for part in trainer.policy.modules() if isinstance(part, StateSpace)]
    before = {name: value.detach().clone() for name, value in space.named_parameters()}
    for step in range(3):
        trainer.update(step)
    moved = {
        name for name, value in space.named_parameters() if not torch.equal(value, before[name])
    }
    fields = {"A": {"log_decay", "frequency"}, "C": {"row"}, "D": {"feedthrough"}, "dt": {"log_dt"}}
    assert moved == set().union(*(fields[name] for name in fields if name not in frozen))


def test_weight_decay_leaves_the_dynamics_alone() -> None:
    """With no gradient to speak of, only decay moves weights."""
    trainer = make_trainer(settings=SETTINGS.model_copy(update={"weight_decay": 1.0}))
    before = {name: value.detach().clone() for name, value in trainer.policy.named_parameters()}
    for parameter in trainer.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.algorithm.optimizer.step()
    for name, value in trainer.policy.named_parameters():
        dynamics = name.rpartition(".")[2] in {"log_decay", "frequency", "column", "log_dt"}
        assert torch.equal(value, before[name]) == (dynamics or value.ndim == 1), name


def test_learning_rates_follow_the_schedule_also_after_resuming() -> None:
    trainer, other = make_trainer(), make_trainer()
    for step in range(7):
        trainer.update(step)
    other.load_state_dict(trainer.state_dict())
    peaks = [1e-2, 1e-2, 1e-3, 2e-3, 1e-2, 3e-3, 1e-2]
    for subject in (trainer, other):
        subject.update(7)
        factor = schedule_factor(7, STEPS, SETTINGS)
        rates = [group["lr"] for group in subject.algorithm.optimizer.param_groups]
        assert rates == pytest.approx([rate * factor for rate in peaks])


def test_gradients_are_clipped() -> None:
    trainer = make_trainer(settings=SETTINGS.model_copy(update={"max_grad_norm": 1e-3}))
    norm = trainer.update(0)["gradient_norm"]
    assert norm > 1e-3
    clipped = torch.stack(
        [p.grad.square().sum() for p in trainer.policy.parameters() if p.grad is not None]
    )
    torch.testing.assert_close(clipped.sum().sqrt(), torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_not_a_number_stops_the_training() -> None:
    trainer = make_trainer()
    with torch.no_grad():
        trainer.policy.head.weight[0, 0] = torch.nan
    before = trainer.policy.head.bias.detach().clone()
    with pytest.raises(RuntimeError, match="non-finite"):
        trainer.update(0)
    assert torch.equal(trainer.policy.head.bias, before)


def test_validation_draws_nothing_and_sees_every_held_out_step_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer(dropout=0.5)
    stream = torch.get_rng_state()
    first = trainer.validate()
    assert torch.equal(torch.get_rng_state(), stream)
    monkeypatch.setattr("mads4.training.offline.VALIDATION_BATCH", 1)
    assert trainer.validate() == pytest.approx(first, rel=1e-5), "dropout is off, sizes irrelevant"
    losses, weights = [], []
    for index in range(len(trainer.held_out)):
        one = SequenceSampler(trainer.held_out.select([index]), 1).batch(0)
        with torch.no_grad():
            loss, _ = behavior_cloning(
                trainer.policy(one), one.action, one.available_actions, one.mask
            )
        losses.append(float(loss))
        weights.append(int(one.mask.sum()))
    pooled = sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)
    assert first["loss"] == pytest.approx(pooled, rel=1e-5)
    trainer.update(0)
    assert trainer.policy.training


def test_it_learns() -> None:
    """The expert answers what it is shown: from a blind guess to next to no doubt."""
    trainer = make_trainer(settings=SETTINGS.model_copy(update={"steps": 150, "weight_decay": 0.0}))
    before = trainer.validate()
    losses = [float(trainer.update(step)["loss"]) for step in range(150)]
    data = trainer.sampler.dataset
    actions = torch.from_numpy(data.action[data.rows()].astype("int64")).flatten()
    share = actions.bincount().float() / actions.numel()
    entropy = float(-(share * share.log()).sum())
    assert losses[-1] < 0.1 * entropy
    after = trainer.validate()
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > 0.95


def test_agent_steps_are_counted_with_padding() -> None:
    trainer = make_trainer()
    longest = int(trainer.sampler.dataset.table.length.max())
    assert trainer.agent_steps(3) == 3 * 4 * longest * 2
