"""The interface of a kernel backend: products with powers of a matrix, without gradients.

`mads4.kernels.vandermonde` makes differentiable operations of them: the backward pass of each
product is the transposed one, so a backend never sees autograd. Every backend takes complex64 and
complex128, and returns the precision it was given.

Axes: ``H`` channels, ``M`` sequences with the same base, ``N`` conjugate pairs, ``L`` time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Powers(Protocol):
    """The Vandermonde matrix V[h, n, l] = base[h, n]^l of one base and length."""

    def product(self, weight: Tensor) -> Tensor:
        """Return 2 Re Σ_n weight_n base_n^l, complex (H, M, N) to real (H, M, L)."""
        ...

    def transposed(self, values: Tensor) -> Tensor:
        """Return Σ_l values_l base_n^l, real (H, M, L) to complex (H, M, N)."""
        ...


class Backend(Protocol):
    """One implementation of the products."""

    name: str
    """As in ``kernel=<name>``."""

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> Powers:
        """Prepare the products with powers of `base`, (H, N), for exponents below `length`.

        |base| <= 1 is not required, and zero is allowed (0^0 = 1). `sequences` is M, a hint: what
        is worth preparing depends on it.
        """
        ...


class CachedBackend:
    """A backend that reuses its latest powers for the same base tensor and length.

    The responses to several agents' states, and the final states of their segments, need powers of
    the same matrix. An instance lives as long as a kernel, during which the base is not modified.

    Args:
        backend: Computes the powers.
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
