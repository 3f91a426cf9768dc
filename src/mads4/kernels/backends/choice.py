"""Which backend computes: the one asked for, or the first of a stated order that runs here."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import cast

import torch

from mads4.errors import UserError, did_you_mean
from mads4.kernels.backends.protocol import Backend

_LOG = logging.getLogger(__name__)

NAMES = ("torch", "keops", "cuda")
AUTO = "auto"

ORDER = {"cpu": ("torch", "keops"), "cuda": ("cuda", "torch", "keops")}
"""What ``auto`` tries, fastest first.

On a CPU ``torch`` was faster than ``keops`` at every length from 50 to 16 000 (``mads4 bench
kernels``; figures in benchmarks/README.md). On a CUDA device the fused kernels come first because
one launch replaces the dozens of small ones that split powers take.
"""


class BackendError(UserError):
    """A backend that does not exist, or that cannot run here, with the reasons."""


@dataclass(frozen=True)
class Choice:
    """A backend and why it was taken."""

    backend: Backend
    reason: str
    """In words, with what spoke against the others."""


# Answers of this process by (name, device type); dictionaries, because `torch.compile` complains
# about functools.cache.
_REASONS: dict[tuple[str, str], str | None] = {}
_CHOICES: dict[tuple[str, str], Choice] = {}


def reason_against(name: str, device: torch.device | str = "cpu") -> str | None:
    """Return why a backend cannot run on a device, or None if it can.

    Found out by importing it and computing something small; asked once per process.

    Raises:
        BackendError: For an unknown name.
    """
    if name not in NAMES:
        allowed = (AUTO, *NAMES)
        raise BackendError(
            f"kernel.backend: there is no '{name}'; allowed: {', '.join(allowed)}."
            f"{did_you_mean(name, allowed)}"
        )
    key = (name, torch.device(device).type)
    if key not in _REASONS:
        module = importlib.import_module(f"mads4.kernels.backends.{name}_backend")
        _REASONS[key] = module.reason_against(torch.device(key[1]))
    return _REASONS[key]


def choose(name: str, device: torch.device | str = "cpu") -> Choice:
    """Return the backend of that name, or the first that runs if `name` is ``auto``.

    Args:
        name: ``auto`` or one of `NAMES`.
        device: Where the tensors are.

    Raises:
        BackendError: If there is no such backend, or if it cannot run here, with the reason:
            a backend asked for by name is never replaced silently.
    """
    key = (name, torch.device(device).type)
    if key not in _CHOICES:
        _CHOICES[key] = _choose(*key)
    return _CHOICES[key]


def _choose(name: str, device_type: str) -> Choice:
    if name == AUTO:
        return _automatic(device_type)
    against = reason_against(name, device_type)
    if against is not None:
        raise BackendError(
            f"kernel.backend: '{name}' cannot run on {device_type}: {against} "
            f"Take kernel=auto, or see `mads4 doctor`."
        )
    return Choice(_load(name), "asked for by name")


def _automatic(device_type: str) -> Choice:
    order = ORDER.get(device_type, ("torch",))
    notes = []
    for name in order:
        against = reason_against(name, device_type)
        if against is None:
            break
        notes.append(f"{name} cannot run: {against}")
    notes += [f"{later} comes later" for later in order[order.index(name) + 1 :]]
    reason = f"first that runs on {device_type} in the order {' > '.join(order)}"
    choice = Choice(_load(name), "; ".join([reason, *notes]))
    _LOG.info("kernel backend: %s (%s)", name, choice.reason)
    return choice


def _load(name: str) -> Backend:
    module = importlib.import_module(f"mads4.kernels.backends.{name}_backend")
    return cast(Backend, module.BACKEND)
