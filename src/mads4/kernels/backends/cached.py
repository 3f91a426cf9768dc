"""A backend that keeps the powers it made last."""

from __future__ import annotations

from torch import Tensor

from mads4.kernels.backends.protocol import Backend, Powers


class RememberingBackend:
    """Another backend, whose latest powers are used again for the same base tensor and length.

    The responses to the states of several agents' segments, and the states that segments end with,
    want the powers of one and the same matrix. It lives as long as a kernel, during which nothing
    writes to the base.

    Args:
        backend: makes the powers.
    """

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self._backend = backend
        self._latest: tuple[Tensor, int, Powers] | None = None

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> Powers:
        """Return the powers of `base`, see `Backend.powers`."""
        if self._latest is not None:
            known, known_length, powers = self._latest
            if known is base and known_length == length:
                return powers
        powers = self._backend.powers(base, length, sequences)
        self._latest = base, length, powers
        return powers

    def cauchy(self, weight: Tensor, poles: Tensor, nodes: Tensor, order: int = 1) -> Tensor:
        """Return the Cauchy product, see `Backend.cauchy`."""
        return self._backend.cauchy(weight, poles, nodes, order)

    def cauchy_transposed(
        self, values: Tensor, poles: Tensor, nodes: Tensor, order: int = 1
    ) -> Tensor:
        """Return the transposed Cauchy product, see `Backend.cauchy_transposed`."""
        return self._backend.cauchy_transposed(values, poles, nodes, order)
