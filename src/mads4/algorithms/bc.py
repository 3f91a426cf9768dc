"""Behavior cloning: supervised sequence modeling of the recorded actions (`algorithm=bc`)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mads4.algorithms.base import ALGORITHMS, Context, OfflineAlgorithm, OfflineSettings
from mads4.algorithms.losses import behavior_cloning
from mads4.models import SequencePolicy
from mads4.models.base import PolicySequence
from mads4.types import SequenceBatch


@ALGORITHMS.register("bc")
class BCConfig(OfflineSettings):
    """Behavior cloning."""

    name: Literal["bc"] = "bc"
    """Algorithm."""

    def build(self, policy: SequencePolicy, context: Context) -> BehaviorCloning:
        """Return the algorithm, which trains `policy`."""
        return BehaviorCloning(policy, self, context)


class BehaviorCloning(OfflineAlgorithm):
    """Cross-entropy to the recorded actions; with return-to-go as input, MADS4's pretraining."""

    def losses(self, batch: SequenceBatch, output: PolicySequence) -> dict[str, Tensor]:
        """Return ``loss`` (nats per agent-step) and ``accuracy``."""
        loss, accuracy = behavior_cloning(
            output.logits, batch.action, batch.available_actions, batch.mask
        )
        return {"loss": loss, "accuracy": accuracy}
