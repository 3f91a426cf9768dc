"""Truncated backpropagation through time: what a window hands to the one that follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mads4.models import SequencePolicy
from mads4.models.base import PolicySequence
from mads4.models.state import State, detach
from mads4.types import BoolArray, SequenceBatch


class TruncatedBPTT:
    """Runs a policy over consecutive windows; each goes on from the state that the last one left.

    The state is given: no gradient flows back into the window before. Who decides first is drawn
    where an episode begins, and kept to its end.

    Args:
        policy: whose state is carried.
    """

    def __init__(self, policy: SequencePolicy) -> None:
        self._policy = policy
        self._state: State | None = None
        self._order: Tensor | None = None

    def sequence(self, batch: SequenceBatch, begins: BoolArray) -> PolicySequence:
        """Return the policy's output for a batch that follows the one before.

        Args:
            batch: of a `mads4.data.consecutive.ConsecutiveSampler`.
            begins: (B,) rows that begin an episode.
        """
        first = torch.from_numpy(begins).to(batch.action.device)
        state = self._state
        if state is None:
            state = self._policy.initial_state(len(first))
        order, dropped = self._policy.draw(batch.action)
        if order is not None and self._order is not None:
            order = torch.where(first[:, None], order, self._order)
        found = self._policy.sequence(
            batch,
            order=order,
            dropped=dropped,
            state=self._policy.reset_rows(state, first),
            return_state=True,
        )
        self._state, self._order = detach(found.state), order
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs; empty before the first window."""
        if self._state is None:
            return {}
        return {"state": self._state, "order": self._order}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._state, self._order = values.get("state"), values.get("order")
