"""Behavior policies by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from mads4.behavior.noise import Noisy
from mads4.behavior.protocol import BehaviorPolicy
from mads4.errors import UserError, did_you_mean

BEHAVIORS = {
    "focus_fire": "mads4.behavior.smax:FocusFire",
    "greedy": "mads4.behavior.greedy:Greedy",
    "heuristic": "mads4.behavior.smax:BuiltIn",
    "planner": "mads4.behavior.planner:CooperativePlanner",
    "random": "mads4.behavior.noise:Random",
}
"""Name → module and class, imported when first asked for."""


def make_behavior(name: str) -> BehaviorPolicy:
    """Return the behavior policy `name` without noise.

    Raises:
        UserError: an unknown name.
    """
    if name not in BEHAVIORS:
        near = did_you_mean(name, BEHAVIORS)
        raise UserError(f"behavior: got '{name}', expected one of {', '.join(BEHAVIORS)}.{near}")
    module, _, member = BEHAVIORS[name].partition(":")
    make: Callable[[], BehaviorPolicy] = getattr(import_module(module), member)
    return make()


@dataclass(frozen=True)
class BehaviorFactory:
    """Makes a behavior policy with its noise; picklable, so that worker processes can call it."""

    name: str
    """One of `BEHAVIORS`."""
    low: float = 0.0
    """Smallest share of random actions in an episode."""
    high: float = 0.0
    """Largest share; 0 leaves the policy as it is."""

    def __call__(self) -> BehaviorPolicy:
        """Return a new behavior policy."""
        behavior = make_behavior(self.name)
        return Noisy(behavior, self.low, self.high) if self.high > 0.0 else behavior
