"""Cauchy products F_l = Σ_n w_n / (z_l - λ_n), with or without conjugate pairs, differentiable.

S4's generating function at the nodes z is made of them (arXiv 2111.00396, section 3). Gradients
follow PyTorch's convention for complex tensors (conjugate Wirtinger derivatives).

Axes: ``H`` channels, ``M`` sequences sharing one ``λ``, ``N`` conjugate pairs, ``L`` nodes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mads4.kernels.backends.protocol import Backend
from mads4.kernels.backends.torch_backend import BACKEND as TORCH


class _Cauchy(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, poles: Tensor, nodes: Tensor, backend: Backend) -> Tensor:
        ctx.backend = backend
        ctx.save_for_backward(weight, poles, nodes)
        return backend.cauchy(weight, poles, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, poles, nodes = ctx.saved_tensors
        backend: Backend = ctx.backend
        needs_weight, needs_poles, needs_nodes, _ = ctx.needs_input_grad
        values = grad.conj().resolve_conj()
        grad_weight, grad_poles, grad_nodes = None, None, None
        if needs_weight:
            grad_weight = backend.cauchy_transposed(values, poles, nodes).conj()
        if needs_poles:
            squared = backend.cauchy_transposed(values, poles, nodes, order=2)
            grad_poles = (weight * squared).sum(1).conj()
        if needs_nodes:
            slope = backend.cauchy(weight, poles, nodes, order=2)
            grad_nodes = -(slope.conj() * grad).sum((0, 1))
        return grad_weight, grad_poles, grad_nodes, None


def cauchy(weight: Tensor, poles: Tensor, nodes: Tensor, backend: Backend = TORCH) -> Tensor:
    """Return F_l = Σ_n [w_n / (z_l - λ_n) + w̄_n / (z_l - λ̄_n)].

    Args:
        weight: w, (H, M, N) complex.
        poles: λ, (H, N) complex, one of each conjugate pair, shared by the M sequences.
        nodes: z, (L,) complex; none may equal a pole or a pole's conjugate.
        backend: Who computes it, see `mads4.kernels.backends`.

    Returns:
        (H, M, L) complex, differentiable once in all three arguments.
    """
    result = _Cauchy.apply(weight, poles, nodes, backend)  # type: ignore[no-untyped-call]
    return cast(Tensor, result)


def complex_cauchy(
    weight: Tensor, poles: Tensor, nodes: Tensor, backend: Backend = TORCH
) -> Tensor:
    """Return Σ_n w_n / (z_l - λ_n) without the conjugates, (H, M, L) complex."""
    both = torch.cat([0.5 * weight, -0.5j * weight], dim=1)
    even, odd = cauchy(both, poles, nodes, backend).chunk(2, dim=1)
    return even + 1j * odd
