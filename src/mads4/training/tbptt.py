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

    def sequence(
        self, batch: SequenceBatch, begins: BoolArray, bootstrap: bool = False
    ) -> PolicySequence:
        """Return the policy's output for a batch that follows the one before.

        Args:
            batch: of a `mads4.data.consecutive.ConsecutiveSampler`.
            begins: (B,) rows that begin an episode.
            bootstrap: whether the last time step is a bootstrap row. The next window begins with
                it, so that the state goes on from the one before.
        """
        first = torch.from_numpy(begins).to(batch.action.device)
        state = self._state
        if state is None:
            state = self._policy.initial_state(len(first))
        order, dropped = self._policy.draw(batch.action)
        if order is not None and self._order is not None:
            order = torch.where(first[:, None], order, self._order)
        reset = self._policy.reset_rows(state, first)

        def run(part: slice, state: State | None) -> PolicySequence:
            return self._policy.sequence(
                batch.map(lambda values: values[:, part]),
                order=order,
                dropped=None if dropped is None else dropped[:, part],
                state=state,
                return_state=True,
            )

        steps = batch.action.shape[1] - bootstrap
        found = run(slice(steps), reset)
        self._state, self._order = detach(found.state), order
        if not bootstrap:
            return found
        beyond = run(slice(steps, None), found.state)
        return PolicySequence(
            logits=torch.cat([found.logits, beyond.logits], dim=1),
            latent=torch.cat([found.latent, beyond.latent], dim=1),
            state=found.state,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs; empty before the first window."""
        if self._state is None:
            return {}
        return {"state": self._state, "order": self._order}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._state, self._order = values.get("state"), values.get("order")
