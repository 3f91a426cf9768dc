"""Implementations of the Vandermonde products, and the choice among them.

A backend ``<name>`` is one module here, ``<name>_backend.py``, and an option of the command line,
``conf/kernel/<name>.yaml``; nothing else lists the backends. The module defines

- ``BACKEND``, a `Backend`;
- ``AUTO_RANK``, device type → rank in the order that ``auto`` tries, from 1 (missing: never);
- ``reason_against(device)``, the reason why it cannot run on a device, or None.
"""

from mads4.kernels.backends.base import Backend, CachedBackend, Powers
from mads4.kernels.backends.choice import (
    AUTO,
    NAMES,
    BackendError,
    Choice,
    choose,
    reason_against,
)

__all__ = [
    "AUTO",
    "NAMES",
    "Backend",
    "BackendError",
    "CachedBackend",
    "Choice",
    "Powers",
    "choose",
    "reason_against",
]
