"""What a backend has to offer: two matrix products per operation, without gradients.

`mads4.kernels.vandermonde` and `mads4.kernels.cauchy` make differentiable operations of them, so a
backend never sees autograd, and its backward pass is its own transposed product. Every backend
takes float32/complex64 and float64/complex128 alike and returns what it was given.

Axes: ``H`` channels, ``M`` sequences sharing one set of nodes, ``N`` conjugate pairs, ``L`` time.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Powers(Protocol):
    """The Vandermonde matrix V[h, n, l] = base[h, n]^l of given base and length."""

    def product(self, weight: Tensor) -> Tensor:
        """Return 2 Re Σ_n weight_n base_n^l, complex (H, M, N) to real (H, M, L)."""
        ...

    def transposed(self, values: Tensor) -> Tensor:
        """Return Σ_l values_l base_n^l, real (H, M, L) to complex (H, M, N)."""
        ...


class Backend(Protocol):
    """One way to compute the products."""

    name: str
    """As the user selects it."""

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> Powers:
        """Prepare the products with powers of `base`, (H, N), for exponents below `length`.

        |base| <= 1 is not required, and zero is allowed (0^0 = 1). `sequences` says how many, M,
        will be multiplied: what is worth preparing depends on it.
        """
        ...

    def cauchy(self, weight: Tensor, poles: Tensor, nodes: Tensor, order: int = 1) -> Tensor:
        """Return Σ_n [w_n / (z_l - λ_n)^p + w̄_n / (z_l - λ̄_n)^p], p = `order` (1 or 2).

        Args:
            weight: w, (H, M, N) complex.
            poles: λ, (H, N) complex.
            nodes: z, (L,) complex, shared by the channels.
            order: p.

        Returns:
            (H, M, L) complex.
        """
        ...

    def cauchy_transposed(
        self, values: Tensor, poles: Tensor, nodes: Tensor, order: int = 1
    ) -> Tensor:
        """Return Σ_l [v_l / (z_l - λ_n)^p + v̄_l / (z̄_l - λ_n)^p], p = `order` (1 or 2).

        Args:
            values: v, (H, M, L) complex.
            poles: λ, (H, N) complex.
            nodes: z, (L,) complex.
            order: p.

        Returns:
            (H, M, N) complex.
        """
        ...
