"""Consecutive windows with the state carried along are whole trajectories, cut up."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from fakes import SPEC, make_policy, matching_data
from mads4.algorithms.base import Context, OfflineSettings, SSMLearningRates
from mads4.algorithms.bc import BCConfig
from mads4.algorithms.icq import ICQConfig
from mads4.data.collate import gather
from mads4.data.consecutive import ConsecutiveSampler
from mads4.models.state import leaves
from mads4.training.offline import OfflineTrainer
from mads4.training.tbptt import TruncatedBPTT

DATA = matching_data(6)
RATES = SSMLearningRates(A=None, B=None, dt=None)
SETTINGS = BCConfig(ssm_learning_rate=RATES, weight_decay=0.0, warmup_steps=0, schedule="constant")


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"message": "none"}, {"message_delay": 1}, {"message": "state"}],
    ids=str,
)
def test_windows_are_the_whole_cut_up(options: dict[str, Any], bootstrap: bool) -> None:
    policy = make_policy(**options)
    sampler = ConsecutiveSampler(DATA, 1, 3, seed=5)
    carry = TruncatedBPTT(policy)
    whole = torch.empty(0)
    with torch.no_grad():
        for step in range(2 * sum(-(-int(n) // 3) for n in DATA.table.length)):
            batch = sampler.batch(step, bootstrap)
            if sampler.begins(step)[0]:
                episode, at = sampler._rows(step)[0], 0
                whole = policy(gather(DATA, episode))[0]
            length = int(batch.mask.sum())
            found = carry.sequence(batch, sampler.begins(step), bootstrap).logits[0]
            assert len(found) == batch.mask.shape[1]
            beyond = int(batch.follows.sum()) + 1  # with the bootstrap row inside an episode
            assert beyond == min(length + bootstrap, len(whole) - at)
            expected = whole[at : at + beyond]
            torch.testing.assert_close(found[:beyond], expected, rtol=0, atol=1e-10)
            at += length


def test_no_gradient_reaches_the_window_before() -> None:
    policy = make_policy()
    sampler = ConsecutiveSampler(DATA, 2, 3)
    carry = TruncatedBPTT(policy)
    carry.sequence(sampler.batch(0), sampler.begins(0))
    assert not any(values.requires_grad for values in leaves(carry.state_dict()["state"]))


def test_who_decides_first_is_kept_to_the_end_of_an_episode() -> None:
    policy = make_policy(agent_order="random", seed=3).train()
    sampler = ConsecutiveSampler(DATA, 4, 3)
    carry, before = TruncatedBPTT(policy), torch.empty(0)
    changed = 0
    for step in range(30):
        begins = sampler.begins(step)
        carry.sequence(sampler.batch(step), begins)
        order = carry.state_dict()["order"]
        if step:
            assert torch.equal(order[~begins], before[~begins])
            changed += int((order[begins] != before[begins]).any(1).sum())
        before = order
    assert changed > 0


ICQ = ICQConfig(critic_width=8, **SETTINGS.model_dump(exclude={"name"}))


def make_trainer(settings: OfflineSettings = SETTINGS) -> OfflineTrainer:
    torch.manual_seed(0)
    policy = make_policy(dtype=torch.float32, agent_order="random", message_dropout=0.2)
    training, held_out = DATA.split(0.2, 0)
    sampler = ConsecutiveSampler(training, 3, 3)
    algorithm = settings.build(policy, Context(0, torch.device("cpu"), 20))
    return OfflineTrainer(algorithm, sampler, held_out)


@pytest.mark.parametrize("algorithm", [SETTINGS, ICQ], ids=["bc", "icq"])
def test_resuming_in_the_middle_of_episodes_is_exact(algorithm: OfflineSettings) -> None:
    through = make_trainer(algorithm)
    torch.manual_seed(1)
    for step in range(4):
        through.update(step)
    kept = copy.deepcopy(through.state_dict())
    stream = torch.get_rng_state()
    resumed = make_trainer(algorithm)
    resumed.load_state_dict(kept)
    assert not through.sampler.begins(4).all()  # type: ignore[union-attr]
    found = []
    for trainer in (through, resumed):
        torch.set_rng_state(stream)
        found.append([trainer.update(step)["loss"] for step in range(4, 8)])
    assert found[0] == found[1]


def test_nothing_carried_is_nothing_saved() -> None:
    carry = TruncatedBPTT(make_policy())
    assert carry.state_dict() == {}
    carry.load_state_dict({})
    sampler = ConsecutiveSampler(DATA, 2, 3)
    carry.sequence(sampler.batch(0), np.array([True, True]))
    again = TruncatedBPTT(make_policy())
    again.load_state_dict(carry.state_dict())
    saved = again.state_dict()["state"]
    assert len(leaves(saved)) == len(leaves(carry.state_dict()["state"])) > 1
    assert SPEC.n_agents == saved["previous_action"].shape[1]
