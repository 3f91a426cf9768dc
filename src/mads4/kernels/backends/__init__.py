"""Implementations of the Vandermonde products, and the choice among them.

A backend ``<name>`` is one module here, ``<name>_backend.py``, and an option of the command line,
``conf/kernel/<name>.yaml``; nothing else lists the backends. The module defines

- ``BACKEND``, a `Backend`;
- ``AUTO_RANK``, device type → rank in the order that ``auto`` tries, from 1 (missing: never);
- ``reason_against(device)``, the reason why it cannot run on a device, or None.

``kernel=custom`` takes a function of the user's own that returns a `Backend`.
"""

from mads4.kernels.backends.base import Backend, CachedBackend, Powers
from mads4.kernels.backends.choice import (
    AUTO,
    KERNELS,
    NAMES,
    BackendError,
    Choice,
    CustomKernelConfig,
    KernelConfig,
    KernelSettings,
    choose,
    reason_against,
)

__all__ = [
    "AUTO",
    "KERNELS",
    "NAMES",
    "Backend",
    "BackendError",
    "CachedBackend",
    "Choice",
    "CustomKernelConfig",
    "KernelConfig",
    "KernelSettings",
    "Powers",
    "choose",
    "reason_against",
]
