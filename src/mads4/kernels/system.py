"""Discrete linear systems whose state matrix is diagonal, or diagonal plus rank one.

    x_{t+1} = d ∘ x_t + w s_t + B̄ u_t,    s_t = 2 Re Σ_n v_n x_{t,n},
    y_t     = 2 Re Σ_n C_n x_{t+1,n} + D u_t.

One of each conjugate pair is stored. Bilinear discretisation of a diagonal-plus-rank-one matrix
is of this form again (Woodbury), so the feedback s is a power series divided by 1 - z k, where
k is the kernel of a *diagonal* system. Both parameterisations are thereby reduced to geometric
sums and nothing is ever diagonalised (HiPPO-LegS' eigenbasis is exponentially ill-conditioned).

Axes: ``H`` channels, ``B`` batch, ``N`` conjugate pairs, ``L`` or ``T`` time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mads4.kernels.power_series import delay, multiply, reciprocal
from mads4.kernels.vandermonde import geometric_sums, moments


@dataclass(frozen=True)
class Feedback:
    """The rank-one part of a state matrix, x ↦ w 2 Re Σ_n v_n x_n."""

    column: Tensor
    """w, (H, N) complex."""
    row: Tensor
    """v, (H, N) complex."""


@dataclass(frozen=True)
class DiscreteSystem:
    """H independent single-input single-output systems, in complex128."""

    decay: Tensor
    """d, (H, N) complex: diagonal of the state matrix."""
    column: Tensor
    """B̄, (H, N) complex."""
    row: Tensor
    """C, (H, N) complex."""
    feedthrough: Tensor
    """D, (H,) float64."""
    feedback: Feedback | None = None
    """None for a diagonal system."""


def _loop(kernel: Tensor) -> Tensor:
    """Return 1 / (1 - z k) for the loop's kernel k, (H, 1, L)."""
    one = torch.nn.functional.pad(kernel.new_ones(1), (0, kernel.shape[-1] - 1))
    return reciprocal(one - delay(kernel))


def autonomous_response(system: DiscreteSystem, start: Tensor, length: int) -> Tensor:
    """Return 2 Re C Ā^l start for l = 0 … length - 1, (H, M, N) complex to (H, M, L) real."""
    row, feedback, count = system.row.unsqueeze(1), system.feedback, start.shape[1]
    if feedback is None:
        return geometric_sums(row * start, system.decay, length)
    starts = torch.cat([start, feedback.column.unsqueeze(1)], dim=1)
    weight = torch.cat([row * starts, feedback.row.unsqueeze(1) * starts], dim=1)
    sums = geometric_sums(weight, system.decay, length)
    response, path = sums[:, :count], sums[:, count : count + 1]
    driven, loop = sums[:, count + 1 : -1], sums[:, -1:]
    return response + delay(multiply(path, multiply(_loop(loop), driven)))


def kernel_taps(system: DiscreteSystem, length: int) -> Tensor:
    """Return the impulse response K_l = 2 Re C Ā^l B̄ (+ D at l = 0), (H, L) float64."""
    taps = autonomous_response(system, system.column.unsqueeze(1), length).squeeze(1)
    direct = torch.nn.functional.pad(system.feedthrough.unsqueeze(-1), (0, length - 1))
    return taps + direct


def advance(system: DiscreteSystem, state: Tensor) -> Tensor:
    """Return Ā x without input, (H, B, N) complex."""
    following = system.decay.unsqueeze(1) * state
    feedback = system.feedback
    if feedback is None:
        return following
    signal = 2.0 * (feedback.row.unsqueeze(1) * state).sum(-1, keepdim=True).real
    return following + feedback.column.unsqueeze(1) * signal


def prefix_response(system: DiscreteSystem, state: Tensor, length: int) -> Tensor:
    """Return what an earlier state adds to the output, 2 Re C Ā^{l+1} x_0: (H, B, L) float64."""
    return autonomous_response(system, advance(system, state), length)


def _integer_power(base: Tensor, exponent: int) -> Tensor:
    """Return base^exponent by squaring, differentiable also where the base is zero."""
    result = torch.ones_like(base)
    while exponent:
        if exponent & 1:
            result = result * base
        base = base * base
        exponent >>= 1
    return result


def final_state(system: DiscreteSystem, inputs: Tensor, state: Tensor | None) -> Tensor:
    """Return the state x_T after T inputs.

    Args:
        system: The H systems.
        inputs: u, (H, B, T) float64.
        state: x_0, (H, B, N) complex128, or None for zero.

    Returns:
        (H, B, N) complex128.
    """
    length = inputs.shape[-1]
    decay, feedback = system.decay, system.feedback
    result = system.column.unsqueeze(1) * moments(inputs.flip(-1), decay)
    if state is not None:
        result = result + _integer_power(decay, length).unsqueeze(1) * state
    if feedback is None:
        return result
    starts = [system.column.unsqueeze(1), feedback.column.unsqueeze(1)]
    starts += [] if state is None else [state]
    weight = feedback.row.unsqueeze(1) * torch.cat(starts, dim=1)
    sums = geometric_sums(weight, decay, length)
    driven = delay(multiply(sums[:, :1], inputs))
    if state is not None:
        driven = driven + sums[:, 2:]
    signal = multiply(_loop(sums[:, 1:2]), driven)
    return result + feedback.column.unsqueeze(1) * moments(signal.flip(-1), decay)
