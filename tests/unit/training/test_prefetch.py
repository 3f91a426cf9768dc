"""Working one batch ahead changes nothing but the time it takes."""

from __future__ import annotations

import threading

import pytest
import torch

from fakes import matching_data
from mads4.data.sampler import SequenceSampler
from mads4.errors import UserError
from mads4.training.prefetch import DeviceBatches
from mads4.types import SequenceBatch

CPU = torch.device("cpu")
SAMPLER = SequenceSampler(matching_data(), 3, window=4, seed=1)


class Source:
    """Notes which steps were asked for, and in which thread."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []

    def batch(self, step: int) -> SequenceBatch:
        self.asked.append((step, threading.current_thread() is threading.main_thread()))
        if step == 5:
            raise UserError("the disk is gone")
        return SAMPLER.batch(step)


def joined() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("batch "):
            thread.join()


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_are_those_of_their_steps(ahead: bool) -> None:
    batches = DeviceBatches(SAMPLER.batch, CPU, ahead=ahead, steps=10)
    for step in (0, 1, 2, 7, 8, 3, 4, 9):
        assert torch.equal(batches.batch(step).observation, SAMPLER.batch(step).observation)


def test_the_next_batch_is_prepared_in_a_thread_that_ends() -> None:
    source = Source()
    batches = DeviceBatches(source.batch, CPU, ahead=True, steps=3)
    for step in range(3):
        batches.batch(step)
    joined()
    assert source.asked == [(0, True), (1, False), (2, False)]
    assert not [t for t in threading.enumerate() if t.name.startswith("batch ")]


def test_without_working_ahead_there_is_no_thread() -> None:
    source = Source()
    batches = DeviceBatches(source.batch, CPU, ahead=False, steps=3)
    batches.batch(0)
    assert source.asked == [(0, True)]


def test_an_error_is_raised_where_its_batch_is_asked_for() -> None:
    source = Source()
    batches = DeviceBatches(source.batch, CPU, ahead=True, steps=10)
    batches.batch(4)
    joined()
    assert source.asked == [(4, True), (5, False)]
    with pytest.raises(UserError, match="the disk is gone"):
        batches.batch(5)
    assert torch.equal(batches.batch(6).action, SAMPLER.batch(6).action)
