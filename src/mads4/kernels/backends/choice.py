"""The group `kernel`: a backend by name, the user's own, or the first in the order that runs."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mads4.errors import UserError, did_you_mean
from mads4.kernels.backends.base import Backend
from mads4.settings import CUSTOM, Factory, Registry, Settings, call_factory

if TYPE_CHECKING:
    import torch  # not at run time: the configuration reads this module's schemas

_LOG = logging.getLogger(__name__)

_SUFFIX = "_backend"

AUTO = "auto"
NAMES = tuple(
    module.name.removesuffix(_SUFFIX)
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if module.name.endswith(_SUFFIX)
)
"""All backends, in alphabetical order."""
FALLBACK = "torch"
"""Runs on every device."""


class BackendError(UserError):
    """A backend that does not exist or cannot run here."""


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it."""

    backend: Backend
    reason: str
    """In words; for ``auto`` with the reasons against the others."""


# Results of this process by (name, device type): dictionaries, because `torch.compile` warns about
# functools.cache.
_REASONS: dict[tuple[str, str], str | None] = {}
_CHOICES: dict[tuple[str, str], Choice] = {}


def reason_against(name: str, device: torch.device | str = "cpu") -> str | None:
    """Return why a backend cannot run on a device, or None if it can.

    The backend is imported and tried on a tiny product, once per process.

    Raises:
        BackendError: For an unknown name.
    """
    if name not in NAMES:
        allowed = (AUTO, *NAMES, CUSTOM)
        raise BackendError(
            f"kernel: there is no '{name}'; allowed: {', '.join(allowed)}."
            f"{did_you_mean(name, allowed)}"
        )
    key = (name, _type(device))
    if key not in _REASONS:
        _REASONS[key] = _reason_against(*key)
    return _REASONS[key]


def choose(name: str, device: torch.device | str = "cpu") -> Choice:
    """Return the backend of that name, or the preferred one that runs if `name` is ``auto``.

    Args:
        name: ``auto``, one of `NAMES`, or ``custom`` after `CustomKernelConfig.choose`.
        device: Where the tensors are.

    Raises:
        BackendError: If the backend does not exist or cannot run here: one that was requested by
            name is never replaced silently.
    """
    key = (name, _type(device))
    if key not in _CHOICES and name == CUSTOM:
        raise BackendError("kernel: 'custom' needs kernel.factory=package.module:function.")
    if key not in _CHOICES:
        _CHOICES[key] = _automatic(key[1]) if name == AUTO else _named(*key)
    return _CHOICES[key]


def automatic_order(device_type: str) -> tuple[str, ...]:
    """Return the backends that ``auto`` tries on a device, by their ``AUTO_RANK``."""
    ranks = {name: _module(name).AUTO_RANK.get(device_type, 0) for name in NAMES}
    return tuple(sorted(filter(ranks.get, NAMES), key=ranks.__getitem__)) or (FALLBACK,)


def _named(name: str, device_type: str) -> Choice:
    against = reason_against(name, device_type)
    if against is not None:
        raise BackendError(
            f"kernel: '{name}' cannot run on {device_type}: {against} "
            f"Use kernel=auto, or see `mads4 doctor`."
        )
    return Choice(_module(name).BACKEND, "requested by name")


def _automatic(device_type: str) -> Choice:
    order = automatic_order(device_type)
    notes = []
    for name in order:
        against = reason_against(name, device_type)
        if against is None:
            break
        notes.append(f"{name} cannot run: {against}")
    notes += [f"{later} comes later" for later in order[order.index(name) + 1 :]]
    reason = f"first that runs on {device_type} in the order {' > '.join(order)}"
    choice = Choice(_module(name).BACKEND, "; ".join([reason, *notes]))
    _LOG.info("kernel backend: %s (%s)", name, choice.reason)
    return choice


def _type(device: torch.device | str) -> str:
    """Return ``cuda`` of ``cuda:0``."""
    return str(device).partition(":")[0]


def _reason_against(name: str, device_type: str) -> str | None:
    import torch

    reason: str | None = _module(name).reason_against(torch.device(device_type))
    return reason


def _module(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}{_SUFFIX}")


class KernelSettings(Settings):
    """Base of the schemas of the group ``kernel``."""

    name: str = AUTO
    """Backend."""

    def choose(self, device: torch.device | str) -> Choice:
        """Return the backend, see `choose`."""
        return choose(self.name, device)


class KernelConfig(KernelSettings):
    """Who computes S4 kernels; auto: the fastest that runs, torch: on any machine."""


KERNELS: Registry[KernelSettings] = Registry("kernel", "mads4.kernels.backends")
"""The group ``kernel``."""
KERNELS.default = KernelConfig


@KERNELS.register(CUSTOM)
class CustomKernelConfig(KernelSettings):
    """A kernel backend of the user's own."""

    name: Literal["custom"] = "custom"
    """Backend."""
    factory: Factory
    """Function `package.module:function` that returns a `mads4.kernels.backends.Backend`."""
    options: dict[str, Any] = Field(default={})
    """Keyword arguments of the factory."""

    def choose(self, device: torch.device | str) -> Choice:
        """Return what the factory makes, which is the backend ``custom`` of this process then.

        Raises:
            UserError: It cannot be imported, refuses the options, or returns something else.
            BackendError: What it returns computes wrong values.
        """
        import torch

        from mads4.kernels.backends.torch_backend import agrees

        made, where = call_factory("kernel", self.factory, **self.options), torch.device(device)
        if not isinstance(getattr(made, "name", None), str) or not callable(
            getattr(made, "powers", None)
        ):
            raise UserError(
                f"kernel.factory: {self.factory} returns a {type(made).__name__}, expected a "
                "mads4.kernels.backends.Backend (an attribute name, a method powers)."
            )
        if not agrees(made, where, length=3):
            raise BackendError(
                f"kernel.factory: the backend of {self.factory} computes wrong values on "
                f"{where.type}; compare it with mads4.kernels.backends.torch_backend."
            )
        choice = Choice(made, f"made by {self.factory}")
        _CHOICES[CUSTOM, where.type] = choice
        return choice
