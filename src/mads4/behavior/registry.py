"""Behavior policies by name, and the user's own by import path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

import mads4.behavior
from mads4.envs.protocol import BehaviorPolicy
from mads4.errors import UserError, did_you_mean

KEY = "dataset.behavior_policy"

_POLICIES: dict[str, Callable[[], BehaviorPolicy]] = {}

PolicyT = TypeVar("PolicyT", bound=BehaviorPolicy)


def register(name: str) -> Callable[[type[PolicyT]], type[PolicyT]]:
    """Return a class decorator that makes a behavior policy available as `name`.

    Any module in `mads4.behavior` may use it; nothing else has to know the policy.
    """

    def add(policy: type[PolicyT]) -> type[PolicyT]:
        _POLICIES[name] = policy
        return policy

    return add


def behavior_names() -> list[str]:
    """Return the names of all registered behavior policies."""
    for module in iter_modules(mads4.behavior.__path__, "mads4.behavior."):
        import_module(module.name)
    return sorted(_POLICIES)


def make_behavior(name: str) -> BehaviorPolicy:
    """Return the behavior policy `name`, or ``package.module:function``'s, without noise.

    Raises:
        UserError: an unknown name, or a function that cannot be imported.
    """
    if ":" in name:
        from mads4.settings import load  # worker processes do without pydantic

        policy: BehaviorPolicy = load(name, KEY)()
        return policy
    names = behavior_names()
    if name not in names:
        near = did_you_mean(name, names)
        raise UserError(
            f"{KEY}: got '{name}', expected one of {', '.join(names)} or "
            f"package.module:function.{near}"
        )
    return _POLICIES[name]()


@dataclass(frozen=True)
class BehaviorFactory:
    """Makes a behavior policy with its noise; picklable, so that worker processes can call it."""

    name: str
    """As `make_behavior` takes it."""
    low: float = 0.0
    """Smallest share of random actions in an episode."""
    high: float = 0.0
    """Largest share; 0 leaves the policy as it is."""

    def __call__(self) -> BehaviorPolicy:
        """Return a new behavior policy."""
        from mads4.behavior.noise import Noisy  # it registers a policy itself

        behavior = make_behavior(self.name)
        return Noisy(behavior, self.low, self.high) if self.high > 0.0 else behavior
