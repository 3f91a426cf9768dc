"""Communication along the chain: each agent sends a message, and its action, to the next one.

The message is a projection of the sender's network output, a linear read-out of its S4 state, or
its action logits; gradients of the receiver's loss reach the sender through it. It is written
before the action is sampled, so the action itself may be sent, too: without it the joint policy
factorizes given the messages and cannot coordinate on one of several good joint actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MESSAGES = ("none", "output", "state", "logits")


class MessageChannel(nn.Module):
    """Writes outgoing messages and reads incoming ones. Axes: any leading ones (...).

    Args:
        d_model: H, the network's width.
        n_actions: how many actions there are.
        message: ``none``; ``output`` and ``state``: `message_dim` numbers, a projection of the
            sender's normalized network output or of read-outs of its S4 state; ``logits``: its
            action logits as they are.
        message_dim: features of a message (``output``, ``state``).
        autoregressive: send the action that was taken.
        detach_message: stop gradients at the message.
    """

    def __init__(
        self,
        d_model: int,
        n_actions: int,
        *,
        message: str,
        message_dim: int,
        autoregressive: bool,
        detach_message: bool,
    ) -> None:
        super().__init__()
        self.message = message
        self.detach_message = detach_message
        self.width = {"none": 0, "logits": n_actions}.get(message, message_dim)
        """Features of a message; 0 for none."""
        self.project = nn.Linear(d_model, message_dim) if message in ("output", "state") else None
        self.message_in = nn.Linear(self.width, d_model, bias=False) if self.width else None
        self.action_in = nn.Embedding(n_actions + 1, d_model) if autoregressive else None
        if self.action_in is not None:
            nn.init.normal_(self.action_in.weight, std=0.1)

    @property
    def autoregressive(self) -> bool:
        """Whether actions are sent."""
        return self.action_in is not None

    @property
    def is_open(self) -> bool:
        """Whether anything is sent."""
        return self.width > 0 or self.autoregressive

    def write(self, output: Tensor, readout: Tensor | None, logits: Tensor) -> Tensor | None:
        """Return the outgoing message (..., `width`), or None if there is none.

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
        self, incoming: Tensor | None, action: Tensor | None, dropped: Tensor | None
    ) -> Tensor | float:
        """Return the term (..., H) that the predecessor adds to its successor's embedded input.

        For the first agent, and where dropped, the message is zero and there is no action.

        Args:
            incoming: (..., `width`) from the predecessor, None if there is none.
            action: (...) int64 that the predecessor took, -1 for none; None if it is not sent.
            dropped: (...) bool, True where nothing arrived; None if everything did.
        """
        term: Tensor | float = 0.0
        if self.message_in is not None and incoming is not None:
            kept = incoming if dropped is None else incoming.masked_fill(dropped.unsqueeze(-1), 0.0)
            term = self.message_in(kept)
        if self.action_in is not None and action is not None:
            received = action if dropped is None else action.masked_fill(dropped, -1)
            term = term + functional.embedding(received + 1, self.action_in.weight)
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
    """Shift axis `dim` from senders to receivers: the first position gets `nothing`."""
    first = torch.full_like(values.narrow(dim, 0, 1), nothing)
    return torch.cat([first, values.narrow(dim, 0, values.shape[dim] - 1)], dim=dim)
