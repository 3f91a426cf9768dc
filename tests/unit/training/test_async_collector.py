"""Playing in a thread: what plays, what goes wrong in it, and leaving early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from fakes import make_policy
from mads4.errors import UserError
from mads4.training.collector import AsyncCollector


class Endless:
    """A collector whose episodes never end, or fail."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.playing = threading.Event()
        self.threads = 0

    def collect(self, policy: Any, iteration: int, best_return: float) -> Any:
        if self.failure is not None:
            raise self.failure
        self.threads = torch.get_num_threads()
        state = policy.initial_state(1)
        while True:
            state = policy.reset_rows(state, torch.zeros(1, dtype=torch.bool))
            self.playing.set()
            policy.step(None, state)


@contextmanager
def playing(collector: Any) -> Iterator[AsyncCollector]:
    policy = make_policy()
    ahead = AsyncCollector(collector)
    assert ahead.weights is None
    try:
        ahead.start(policy, {"policy": policy.state_dict()}, 0, 1.0)
        yield ahead
    finally:
        ahead.close()


def test_what_nobody_waits_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mads4.models.Mads4Policy.step", lambda self, inputs, state: None)
    before, endless = torch.get_num_threads(), Endless()
    with playing(endless) as ahead:
        assert endless.playing.wait(120.0)
        assert ahead.weights is not None
    assert endless.threads == 1
    assert torch.get_num_threads() == before, "the thread's number is its own"
    assert not [t for t in threading.enumerate() if t.name.startswith("collector")]


def test_what_goes_wrong_is_raised_where_it_is_wanted() -> None:
    with (
        playing(Endless(UserError("The game is gone."))) as ahead,
        pytest.raises(UserError, match="The game is gone"),
    ):
        ahead.result()
    assert ahead.weights is None
