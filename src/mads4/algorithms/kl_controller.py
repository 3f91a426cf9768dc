"""The leash: a weight on the divergence from the pretrained policy that follows the divergence."""

from __future__ import annotations

TOLERANCE = 1.5
"""Factor by which the divergence may miss its aim before the weight is changed."""
STEP = 1.5
"""Factor by which the weight is changed."""
BOUNDS = (1e-4, 1e3)


class AdaptiveKLController:
    """Adapts the weight so that the divergence stays below what is allowed (PPO 2017, section 4).

    Args:
        weight: initial weight on the divergence in the loss; 0 for none, for good.
        allowed: nats per agent-step that the policy may move away.
    """

    def __init__(self, weight: float, allowed: float) -> None:
        self.weight = weight
        self.allowed = allowed

    def follow(self, divergence: float) -> None:
        """Pull harder after a divergence above what is allowed, more softly well below."""
        if self.weight == 0.0:
            return
        if divergence > self.allowed * TOLERANCE:
            self.weight = min(self.weight * STEP, BOUNDS[1])
        elif divergence < self.allowed / TOLERANCE:
            self.weight = max(self.weight / STEP, BOUNDS[0])
