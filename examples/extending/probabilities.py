"""A message kind: agents of MADS4 send their action probabilities instead of a projection."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mads4.models import Mads4Policy
from mads4.models.communication import MessageChannel
from mads4.types import EnvSpec


class ProbabilityChannel(MessageChannel):
    """A channel as wide as there are actions; only what is written into it is different."""

    def write(self, output: Tensor, readout: Tensor | None, logits: Tensor) -> Tensor | None:
        """Return the softmax of the logits (..., n_actions), before actions are masked."""
        message = super().write(output, readout, logits)
        return None if message is None else message.softmax(dim=-1)


def make(spec: EnvSpec, **options: Any) -> Mads4Policy:
    """Return MADS4 with this channel; `options` are those of `mads4.models.Mads4Config`."""
    policy = Mads4Policy(spec, message="logits", **options)
    channel = ProbabilityChannel(
        policy.latent_dim,
        spec.n_actions,
        message=policy.channel.message,
        message_dim=spec.n_actions,
        autoregressive=policy.channel.autoregressive,
        detach_message=policy.channel.detach_message,
    )
    policy.channel = channel
    return policy
