"""Ways to compute the Vandermonde and Cauchy products, and the choice among them."""

from mads4.kernels.backends.choice import (
    AUTO,
    NAMES,
    BackendError,
    Choice,
    choose,
    reason_against,
)
from mads4.kernels.backends.protocol import Backend, Powers

__all__ = [
    "AUTO",
    "NAMES",
    "Backend",
    "BackendError",
    "Choice",
    "Powers",
    "choose",
    "reason_against",
]
