"""An algorithm: behavior cloning in which trajectories with higher returns weigh more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mads4.algorithms.base import Context, OfflineAlgorithm, OfflineSettings
from mads4.algorithms.losses import log_probabilities
from mads4.models import SequencePolicy
from mads4.models.base import PolicySequence
from mads4.settings import Rate
from mads4.types import SequenceBatch


class Settings(OfflineSettings):
    """Those of all offline algorithms, and a temperature."""

    name: str = "weighted_bc"
    temperature: Rate = 1.0
    """Difference of returns, in standard deviations of the batch's, for a weight of e."""

    def build(self, policy: SequencePolicy, context: Context) -> WeightedCloning:
        """Return the algorithm, which trains `policy`."""
        return WeightedCloning(policy, self, context)


class WeightedCloning(OfflineAlgorithm):
    """Cross-entropy to recorded actions, weighted by a softmax of the trajectories' returns."""

    settings: Settings

    def losses(self, batch: SequenceBatch, output: PolicySequence) -> dict[str, Tensor]:
        """Return ``loss`` (nats per agent-step) and the batch's mean ``return``."""
        returns = batch.return_to_go[:, 0]
        spread = returns.std(correction=0).clamp(min=1e-6)
        weight = len(returns) * ((returns / spread) / self.settings.temperature).softmax(0)
        possible = batch.available_actions.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        real = batch.mask.unsqueeze(-1) & possible
        log_p = torch.where(real, log_probabilities(output.logits, batch.action), 0.0)
        loss = -(weight[:, None, None] * log_p).sum() / real.sum().clamp(min=1)
        return {"loss": loss, "return": returns.mean()}


def make(policy: SequencePolicy, context: Context, **options: Any) -> WeightedCloning:
    """Return the algorithm, which trains `policy`."""
    return Settings(**options).build(policy, context)
