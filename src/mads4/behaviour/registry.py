"""Behaviour policies by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from mads4.behaviour.noise import Noisy
from mads4.behaviour.protocol import Behaviour
from mads4.errors import UserError, did_you_mean

BEHAVIOURS = {
    "focus_fire": "mads4.behaviour.smax:FocusFire",
    "greedy": "mads4.behaviour.greedy:Greedy",
    "heuristic": "mads4.behaviour.smax:BuiltIn",
    "planner": "mads4.behaviour.planner:CooperativePlanner",
    "random": "mads4.behaviour.noise:Random",
}
"""Name → module and class, imported when first asked for."""


def make_behaviour(name: str) -> Behaviour:
    """Return the behaviour policy `name` without noise.

    Raises:
        UserError: an unknown name.
    """
    if name not in BEHAVIOURS:
        near = did_you_mean(name, BEHAVIOURS)
        raise UserError(f"behaviour: got '{name}', expected one of {', '.join(BEHAVIOURS)}.{near}")
    module, _, member = BEHAVIOURS[name].partition(":")
    make: Callable[[], Behaviour] = getattr(import_module(module), member)
    return make()


@dataclass(frozen=True)
class BehaviourFactory:
    """Makes a behaviour policy with its noise; picklable, so that worker processes can call it."""

    name: str
    """One of `BEHAVIOURS`."""
    low: float = 0.0
    """Smallest share of random actions in an episode."""
    high: float = 0.0
    """Largest share; 0 leaves the policy as it is."""

    def __call__(self) -> Behaviour:
        """Return a new behaviour policy."""
        behaviour = make_behaviour(self.name)
        return Noisy(behaviour, self.low, self.high) if self.high > 0.0 else behaviour
