"""Discrete linear systems whose state matrix is diagonal, or diagonal plus rank one.

    x_{t+1} = d ∘ x_t + w s_t + B̄ u_t,    s_t = 2 Re Σ_n v_n x_{t,n},
    y_t     = 2 Re Σ_n C_n x_{t+1,n} + D u_t.

One of each conjugate pair is stored; a real diagonal has none, and no 2 Re.
Bilinear discretization of a diagonal-plus-rank-one matrix is of this form again (Woodbury), so the
feedback s is a power series divided by 1 - z k, where k is the kernel of a *diagonal* system. Both
parameterizations thus reduce to Vandermonde products, and nothing is ever diagonalized
(HiPPO-LegS' eigenbasis is exponentially ill-conditioned).

Axes: ``H`` channels, ``B`` batch, ``N`` conjugate pairs, ``L`` or ``T`` time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mads4.kernels.backends.base import Backend
from mads4.kernels.backends.torch_backend import BACKEND as TORCH
from mads4.kernels.power_series import delay, divide, multiply
from mads4.kernels.vandermonde import vandermonde, vandermonde_transpose

_SERIES_ELEMENTS = (1 << 24, 1 << 17)
"""Terms of power series, over all channels, in one chunk: on other devices, on a CPU.

It bounds temporaries: for H = 96 and L = 16 000 the peak falls from 429 to 200 MiB, and chunks that
fit the cache are a third faster.
"""


@dataclass(frozen=True)
class Feedback:
    """The rank-one part of a state matrix, x ↦ w 2 Re Σ_n v_n x_n."""

    column: Tensor
    """w, (H, N) complex."""
    row: Tensor
    """v, (H, N) complex."""


@dataclass(frozen=True)
class DiscreteSystem:
    """H independent single-input single-output systems, complex128 or (real modes) float64."""

    decay: Tensor
    """d, (H, N): diagonal of the state matrix."""
    column: Tensor
    """B̄, (H, N)."""
    row: Tensor
    """C, (H, N)."""
    feedthrough: Tensor
    """D, (H,) float64."""
    feedback: Feedback | None = None
    """None for a diagonal system."""

    def __getitem__(self, channels: slice) -> DiscreteSystem:
        """Return a slice of the channels."""
        feedback = self.feedback
        if feedback is not None:
            feedback = Feedback(feedback.column[channels], feedback.row[channels])
        return DiscreteSystem(
            self.decay[channels],
            self.column[channels],
            self.row[channels],
            self.feedthrough[channels],
            feedback,
        )


def _one_minus_delayed(kernel: Tensor) -> Tensor:
    """Return the series 1 - z k, the denominator of the loop closed through the kernel k."""
    one = torch.nn.functional.pad(kernel.new_ones(1), (0, kernel.shape[-1] - 1))
    return one - delay(kernel)


def read_out(row: Tensor, state: Tensor) -> Tensor:
    """Return 2 Re Σ_n row_n state_n (real modes: Σ_n row_n state_n), (..., N) to (...)."""
    total = (row * state).sum(-1)
    return 2.0 * total.real if total.is_complex() else total


def autonomous_response(
    system: DiscreteSystem, start: Tensor, length: int, backend: Backend = TORCH
) -> Tensor:
    """Return 2 Re C Ā^l start for l = 0 … length - 1, (H, M, N) to (H, M, L) real."""
    if system.feedback is None:
        return vandermonde(system.row.unsqueeze(1) * start, system.decay, length, backend)
    elements = _SERIES_ELEMENTS[start.device.type == "cpu"]
    size = max(1, elements // (start.shape[1] * length))
    parts = [slice(first, first + size) for first in range(0, len(start), size)]
    return torch.cat([_closed_loop(system[part], start[part], length, backend) for part in parts])


def _closed_loop(system: DiscreteSystem, start: Tensor, length: int, backend: Backend) -> Tensor:
    """Return the response of a system with feedback: s = driven / (1 - z k), y += z path s."""
    row, feedback, count = system.row.unsqueeze(1), system.feedback, start.shape[1]
    assert feedback is not None
    starts = torch.cat([start, feedback.column.unsqueeze(1)], dim=1)
    weight = torch.cat([row * starts, feedback.row.unsqueeze(1) * starts], dim=1)
    sums = vandermonde(weight, system.decay, length, backend)
    response, path, driven, loop = torch.split(sums, [count, 1, count, 1], dim=1)
    return response + delay(multiply(path, divide(driven, _one_minus_delayed(loop))))


def kernel_taps(system: DiscreteSystem, length: int, backend: Backend = TORCH) -> Tensor:
    """Return the impulse response K_l = 2 Re C Ā^l B̄ (+ D at l = 0), (H, L) float64."""
    taps = autonomous_response(system, system.column.unsqueeze(1), length, backend).squeeze(1)
    direct = torch.nn.functional.pad(system.feedthrough.unsqueeze(-1), (0, length - 1))
    return taps + direct


def advance(system: DiscreteSystem, state: Tensor) -> Tensor:
    """Return Ā x without input, (H, B, N) complex."""
    following = system.decay.unsqueeze(1) * state
    feedback = system.feedback
    if feedback is None:
        return following
    signal = read_out(feedback.row.unsqueeze(1), state).unsqueeze(-1)
    return following + feedback.column.unsqueeze(1) * signal


def prefix_response(
    system: DiscreteSystem, state: Tensor, length: int, backend: Backend = TORCH
) -> Tensor:
    """Return the output's part due to an earlier state, 2 Re C Ā^{l+1} x_0: (H, B, L) float64."""
    return autonomous_response(system, advance(system, state), length, backend)


def _integer_power(base: Tensor, exponent: int) -> Tensor:
    """Return base^exponent by squaring, differentiable also where the base is zero."""
    result = torch.ones_like(base)
    while exponent:
        if exponent & 1:
            result = result * base
        base = base * base
        exponent >>= 1
    return result


def final_state(
    system: DiscreteSystem, inputs: Tensor, state: Tensor | None, backend: Backend = TORCH
) -> Tensor:
    """Return the state x_T after T inputs.

    Args:
        system: The H systems.
        inputs: u, (H, B, T) float64.
        state: x_0, (H, B, N) of the system's dtype, or None for zero.
        backend: The implementation of the products.

    Returns:
        (H, B, N) of the system's dtype.
    """
    length = inputs.shape[-1]
    decay, feedback = system.decay, system.feedback
    result = system.column.unsqueeze(1) * vandermonde_transpose(inputs.flip(-1), decay, backend)
    if state is not None:
        result = result + _integer_power(decay, length).unsqueeze(1) * state
    if feedback is None:
        return result
    starts = [system.column.unsqueeze(1), feedback.column.unsqueeze(1)]
    starts += [] if state is None else [state]
    weight = feedback.row.unsqueeze(1) * torch.cat(starts, dim=1)
    sums = vandermonde(weight, decay, length, backend)
    driven = delay(multiply(sums[:, :1], inputs))
    if state is not None:
        driven = driven + sums[:, 2:]
    signal = divide(driven, _one_minus_delayed(sums[:, 1:2]))
    driven_state = vandermonde_transpose(signal.flip(-1), decay, backend)
    return result + feedback.column.unsqueeze(1) * driven_state
