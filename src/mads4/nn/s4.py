"""The S4 layer in its two views: a convolution over sequences and a recurrence over time steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn

from mads4.kernels.convolution import causal_convolution, kernel_spectrum
from mads4.kernels.system import DiscreteSystem, final_state, kernel_taps, prefix_response
from mads4.nn.cache import ParameterCache
from mads4.nn.ssm import TRAINABLE, StateSpace


@dataclass(frozen=True)
class SequenceKernel:
    """What the convolutional view needs; made once per optimiser step, used by many calls."""

    taps: Tensor
    """(H, L) impulse response, the feedthrough D included."""
    spectrum: Tensor
    """(H, F) complex transform of the taps."""
    system: DiscreteSystem
    """The discretised system, for prefix and final states."""

    @property
    def length(self) -> int:
        """L, the longest sequence it serves."""
        return int(self.taps.shape[-1])


@dataclass(frozen=True)
class StepCoefficients:
    """The discretised system as the recurrence wants it, in the parameters' dtype."""

    decay: Tensor
    """Ā's diagonal, (H, N / 2) complex."""
    column: Tensor
    """B̄, (H, N) real pairs."""
    row: Tensor
    """2 Re C· as weights of a real dot product, (H, N)."""
    feedthrough: Tensor
    """D, (H,)."""
    feedback_column: Tensor | None
    """w, (H, N) real pairs, or None for a diagonal system."""
    feedback_row: Tensor | None
    """2 Re v· as weights of a real dot product, (H, N)."""


def _real_pairs(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Lay complex (..., N / 2) out as real (..., N), real and imaginary parts interleaved."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2).to(dtype)


def _dot_weights(row: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights g with Σ g x = 2 Re Σ row x for a state x laid out as real pairs."""
    return _real_pairs(2.0 * row.conj(), dtype)


def _as_complex(state: Tensor) -> Tensor:
    """View a state (..., N) of real pairs as complex (..., N / 2)."""
    return torch.view_as_complex(state.contiguous().view(*state.shape[:-1], -1, 2))


class S4Layer(nn.Module):
    """A bank of H state-space models over sequences (B, T, H).

    Sequences may have any strides; memory order (H, B, T), as in `S4Stack`, avoids all copies.

    Args:
        d_model: H, channels.
        d_state: N, real states per channel (even).
        parameterisation: ``diagonal`` or ``dplr``.
        discretisation: ``zoh`` or ``bilinear`` (``dplr``: ``bilinear``).
        initialisation: Of a diagonal A: ``legs``, ``lin`` or ``inv``.
        dt_min: Smallest initial step size.
        dt_max: Largest initial step size.
        trainable: Which of A, B, C, dt, D are trained.
        memory: False cuts the memory (an ablation): only the kernel's first tap acts.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 96,
        *,
        parameterisation: str = "diagonal",
        discretisation: str = "zoh",
        initialisation: str = "legs",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        trainable: Sequence[str] = TRAINABLE,
        memory: bool = True,
    ) -> None:
        super().__init__()
        self.ssm = StateSpace(
            d_model,
            d_state,
            parameterisation=parameterisation,
            discretisation=discretisation,
            initialisation=initialisation,
            dt_min=dt_min,
            dt_max=dt_max,
            trainable=trainable,
            memory=memory,
        )
        self._cache: ParameterCache[StepCoefficients] = ParameterCache()

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return the zero state, (B, H, N) real pairs, by default as the parameters are."""
        like = self.ssm.row
        return torch.zeros(
            batch,
            self.ssm.d_model,
            self.ssm.d_state,
            device=device or like.device,
            dtype=dtype or like.dtype,
        )

    def kernel(self, length: int) -> SequenceKernel:
        """Return the kernel for sequences of up to `length` steps, differentiable.

        It is computed in float64, which autocast leaves alone.
        """
        system = self.ssm.discretise()
        taps = kernel_taps(system, length).to(self.ssm.row.dtype)
        return SequenceKernel(taps, kernel_spectrum(taps), system)

    @overload
    def forward(
        self, u: Tensor, state: Tensor | None = ..., kernel: SequenceKernel | None = ...
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        u: Tensor,
        state: Tensor | None = ...,
        kernel: SequenceKernel | None = ...,
        *,
        return_state: bool,
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def forward(
        self,
        u: Tensor,
        state: Tensor | None = None,
        kernel: SequenceKernel | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the outputs y (B, T, H), and the state after the last step if `return_state`.

        Args:
            u: (B, T, H) inputs.
            state: (B, H, N) state left by what came before, None for zero.
            kernel: From `kernel`, for at least T steps; computed here if None.
            return_state: Also return the final state (B, H, N).

        Raises:
            ValueError: If the sequence is longer than the kernel.
        """
        length = u.shape[1]
        kernel = kernel or self.kernel(length)
        if length > kernel.length:
            raise ValueError(f"{length} steps do not fit a kernel made for {kernel.length}.")
        inputs = u.permute(2, 0, 1).to(kernel.taps.dtype)
        outputs = causal_convolution(inputs, kernel.spectrum)
        start = None
        if state is not None:
            start = _as_complex(state.to(torch.float64)).transpose(0, 1)
            prefix = prefix_response(kernel.system, start, length)
            outputs = outputs + prefix.to(outputs.dtype)
        outputs = outputs.permute(1, 2, 0)
        if not return_state:
            return outputs
        final = final_state(kernel.system, inputs.to(torch.float64), start)
        return outputs, _real_pairs(final.transpose(0, 1), outputs.dtype)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one time step, (B, H) and (B, H, N) to the output (B, H) and the next state."""
        system = self._cache.get(self.ssm.parameters(), self._step_coefficients)
        following = torch.view_as_real(_as_complex(state) * system.decay).flatten(-2)
        if system.feedback_row is not None and system.feedback_column is not None:
            signal = (state * system.feedback_row).sum(-1, keepdim=True)
            following.addcmul_(signal, system.feedback_column)
        following.addcmul_(u.unsqueeze(-1), system.column)
        y = (following * system.row).sum(-1)
        return torch.addcmul(y, u, system.feedthrough), following

    def _step_coefficients(self) -> StepCoefficients:
        system = self.ssm.discretise()
        dtype = self.ssm.row.dtype
        feedback = system.feedback
        return StepCoefficients(
            decay=system.decay.to(dtype.to_complex()),
            column=_real_pairs(system.column, dtype),
            row=_dot_weights(system.row, dtype),
            feedthrough=system.feedthrough.to(dtype),
            feedback_column=None if feedback is None else _real_pairs(feedback.column, dtype),
            feedback_row=None if feedback is None else _dot_weights(feedback.row, dtype),
        )
