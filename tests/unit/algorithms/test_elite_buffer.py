"""What is cloned in online training: the best of the own episodes, and the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes import SPEC, make_policy, matching_data, matching_episode
from mads4.algorithms.elite_buffer import EliteBuffer
from mads4.rollout import EpisodeResult
from mads4.types import Episode, SequenceBatch, returns_to_go


def worth(value: float, seed: int) -> Episode:
    """An episode with this return, all of it earned in the middle."""
    episode = matching_episode(seed)
    reward = np.zeros_like(episode.reward)
    reward[len(reward) // 2] = value
    return replace(episode, reward=reward, metrics={"matches": value})


def played(*episodes: Episode) -> list[EpisodeResult]:
    return [
        EpisodeResult(k, one.episode_return, one.length, {}, episode=one, target_return=99.0)
        for k, one in enumerate(episodes)
    ]


def seeds(buffer: EliteBuffer) -> list[int]:
    return [one["seed"] for one in buffer.state_dict()]


def same(one: SequenceBatch | None, other: SequenceBatch | None) -> bool:
    assert one is not None and other is not None
    return all(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())


def test_the_best_are_kept_the_earlier_of_equals() -> None:
    buffer = EliteBuffer(SPEC, None, batch_size=2, size=2, seed=0)
    buffer.keep(played(worth(1.0, 1), worth(3.0, 2), worth(2.0, 3)))
    assert seeds(buffer) == [2, 3]
    buffer.keep(played(worth(2.0, 4), worth(0.0, 5)))
    assert seeds(buffer) == [2, 3]
    buffer.keep(played(worth(9.0, 6)))
    assert seeds(buffer) == [6, 2]


def test_nothing_to_clone() -> None:
    buffer = EliteBuffer(SPEC, None, batch_size=2, size=0, seed=0)
    buffer.keep(played(worth(1.0, 1)))
    assert buffer.batch(0, 0, 0) is None
    assert buffer.state_dict() == []


def test_returns_to_go_are_those_that_were_achieved() -> None:
    episode = worth(3.0, 1)
    buffer = EliteBuffer(SPEC, None, batch_size=1, size=1, seed=0)
    buffer.keep(played(episode))
    batch = buffer.batch(4, 1, 0)
    assert batch is not None
    np.testing.assert_array_equal(batch.return_to_go[0].numpy(), returns_to_go(episode.reward))
    np.testing.assert_array_equal(batch.action[0].numpy(), episode.action)


@pytest.mark.parametrize("minibatches", [1, 2, 3])
def test_data_and_own_episodes_come_by_turns(minibatches: int) -> None:
    data = matching_data(6)
    both, recorded = (EliteBuffer(SPEC, data, batch_size=2, size=kept, seed=0) for kept in (1, 0))
    both.keep(played(worth(50.0, 77)))
    own = [
        not same(both.batch(step, epoch, number), recorded.batch(step, epoch, number))
        for step in range(4)
        for epoch in range(2)
        for number in range(minibatches)
    ]
    assert sum(own) == len(own) / 2


def test_it_goes_on_where_it_was() -> None:
    one, other = (EliteBuffer(SPEC, None, batch_size=2, size=3, seed=5) for _ in range(2))
    one.keep(played(*(worth(float(k), k) for k in range(5))))
    other.load_state_dict(one.state_dict())
    assert seeds(other) == seeds(one) == [4, 3, 2]
    for step in range(3):
        assert same(one.batch(step, 0, 1), other.batch(step, 0, 1))
    for buffer in (one, other):
        buffer.keep(played(worth(2.5, 9)))
        assert seeds(buffer) == [4, 3, 9]
    assert other.state_dict()[0]["metrics"] == {"matches": 4.0}


def test_the_order_is_drawn_where_it_is_random() -> None:
    buffer = EliteBuffer(SPEC, matching_data(6), batch_size=4, size=0, seed=0)
    batch = buffer.batch(0, 0, 0)
    assert batch is not None

    def losses(agent_order: str) -> set[float]:
        policy = make_policy(agent_order=agent_order)
        return {buffer.loss(policy, batch).item() for _ in range(8)}

    assert len(losses("fixed")) == 1
    assert len(losses("random")) > 1
