"""What an agent hands to the next one within the chain: a message, and the action it took.

The message is a projection of the writer's network output, a linear read-out of its S4 state, or
its action logits; gradients of the reader's loss reach the writer through it. It cannot carry what
is drawn after it was written, so the action itself may be handed on, too: without it the joint
policy factorizes given the messages and cannot agree on one of several good joint actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MESSAGES = ("none", "output", "state", "logits")
MESSAGE_TIMES = ("same_step", "previous_step")
AGENT_ORDERS = ("fixed", "random")


class MessageChannel(nn.Module):
    """Writes messages and reads what was handed on. Axes: any leading ones (...).

    Args:
        d_model: H, the network's width.
        n_actions: how many actions there are.
        message: ``none``; ``output`` and ``state``: `message_dim` numbers, a projection of the
            writer's normalized network output or of read-outs of its S4 state; ``logits``: its
            action logits as they are.
        message_dim: features of a message (``output``, ``state``).
        share_action: hand on the action that was taken.
        detach_message: keep gradients from flowing back through the message.
    """

    def __init__(
        self,
        d_model: int,
        n_actions: int,
        *,
        message: str,
        message_dim: int,
        share_action: bool,
        detach_message: bool,
    ) -> None:
        super().__init__()
        self.message = message
        self.detach_message = detach_message
        self.width = {"none": 0, "logits": n_actions}.get(message, message_dim)
        """Features of a message; 0 for none."""
        self.project = nn.Linear(d_model, message_dim) if message in ("output", "state") else None
        self.message_in = nn.Linear(self.width, d_model, bias=False) if self.width else None
        self.action_in = nn.Embedding(n_actions + 1, d_model) if share_action else None
        if self.action_in is not None:
            nn.init.normal_(self.action_in.weight, std=0.1)

    def write(self, output: Tensor, readout: Tensor | None, logits: Tensor) -> Tensor | None:
        """Return the message (..., `width`), or None if there is none.

        Args:
            output: (..., H) normalized network output.
            readout: (..., H) read-outs of the S4 state; needed for ``state``.
            logits: (..., n_actions) before unavailable actions are masked.
        """
        if self.message == "logits":
            message = logits
        elif self.project is None:
            return None
        else:
            message = self.project(output if self.message == "output" else readout)
        return message.detach() if self.detach_message else message

    def read(
        self, message: Tensor | None, action: Tensor | None, lost: Tensor | None
    ) -> Tensor | float:
        """Return the term (..., H) that a hand-off adds to its reader's embedded input.

        Nothing handed on (the first agent, or a loss) is a message of zeros and no action.

        Args:
            message: (..., `width`) from the predecessor, None if there is none to read.
            action: (...) int64 that the predecessor took, -1 for none; None if it is not shared.
            lost: (...) bool, True where the hand-off did not arrive; None if all did.
        """
        term: Tensor | float = 0.0
        if self.message_in is not None and message is not None:
            kept = message if lost is None else message.masked_fill(lost.unsqueeze(-1), 0.0)
            term = self.message_in(kept)
        if self.action_in is not None and action is not None:
            known = action if lost is None else action.masked_fill(lost, -1)
            term = term + functional.embedding(known + 1, self.action_in.weight)
        return term


def to_positions(values: Tensor, order: Tensor | None, dim: int) -> Tensor:
    """Rearrange axis `dim` from agents to positions in the chain.

    Args:
        values: (B, …), agents along `dim` >= 1.
        order: (B, N) int64, the agent at each position; None if that is the order of numbers.
        dim: the agents' axis.
    """
    if order is None:
        return values
    shape = [1] * values.ndim
    shape[0], shape[dim] = order.shape
    return values.gather(dim, order.view(shape).expand_as(values))


def to_agents(values: Tensor, order: Tensor | None, dim: int) -> Tensor:
    """Undo `to_positions`."""
    return values if order is None else to_positions(values, order.argsort(dim=1), dim)


def from_predecessor(values: Tensor, dim: int, nothing: float) -> Tensor:
    """Shift axis `dim` from writers to readers: the first position gets `nothing`."""
    first = torch.full_like(values.narrow(dim, 0, 1), nothing)
    return torch.cat([first, values.narrow(dim, 0, values.shape[dim] - 1)], dim=dim)
