"""Implementations of the Vandermonde products, and the choice among them.

A backend ``<name>`` is one module here, ``<name>_backend.py``, with ``BACKEND`` (a `Backend`) and
``reason_against(device) -> str | None``; ``conf/kernel/<name>.yaml`` makes it an option of the
command line. Nothing else lists the backends.
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
