"""The S4 layer in its two views: a convolution over sequences and a recurrence over time steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mads4.kernels.backends import AUTO, NAMES, Backend, CachedBackend, choose
from mads4.kernels.convolution import causal_convolution, convolution_operator
from mads4.kernels.system import DiscreteSystem, final_state, kernel_taps, prefix_response
from mads4.nn.cache import ParameterCache
from mads4.nn.recurrence import (
    Recurrent,
    StepCoefficients,
    as_modes,
    as_real,
    step_coefficients,
)
from mads4.nn.ssm import StateSpace
from mads4.settings import CUSTOM

_KERNELS = 2
"""Number of lengths with a cached kernel: that of most segments and that of the last."""


@dataclass(frozen=True)
class SequenceKernel:
    """Kernel of the convolutional view; computed once per optimizer step, used by many calls."""

    taps: Tensor
    """(H, L) impulse response, the feedthrough D included."""
    operator: Tensor
    """Operand of the convolution with the taps, see `convolution_operator`."""
    system: DiscreteSystem
    """The discretized system, for prefix and final states."""
    backend: Backend
    """Backend of products with the system's powers."""
    readout: SequenceKernel | None = None
    """The kernel from inputs to read-outs of the state, where the layer has them."""

    @property
    def length(self) -> int:
        """L, the longest sequence it serves."""
        return int(self.taps.shape[-1])


class S4Layer(Recurrent):
    """A bank of H state-space models over sequences (B, T, H).

    Sequences may have any strides; memory order (H, B, T), as in `S4Stack`, avoids all copies.

    Args:
        d_model: H, channels.
        d_state: N, real states per channel.
        backend: Of the kernels: ``auto``, ``torch``, ``keops`` or ``cuda``; looked up when a
            kernel is made, so that the layer may move between devices.
        **ssm: Options of `mads4.nn.ssm.StateSpace`: ``parameterization``, ``discretization``,
            ``initialization``, ``n_ssm``, ``dt_min``, ``dt_max``, ``stateless``,
            ``readout``. With ``readout`` each channel has a second output, C' x_{t+1}: a learned
            linear function of its state, in either view (`read_sequence`, `read`).

    Raises:
        ValueError: For an unknown or impossible option.
    """

    def __init__(
        self, d_model: int, d_state: int = 96, *, backend: str = "auto", **ssm: Any
    ) -> None:
        super().__init__()
        if backend not in (AUTO, CUSTOM, *NAMES):
            raise ValueError(f"Unknown backend {backend!r}; allowed: {', '.join((AUTO, *NAMES))}.")
        self.ssm = StateSpace(d_model, d_state, **ssm)
        self.backend = backend
        self._cache: ParameterCache[StepCoefficients] = ParameterCache()
        self._kernels: ParameterCache[dict[tuple[int, str], SequenceKernel]] = ParameterCache()

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return the zero state, (B, H, N) real, by default as the parameters are.

        Conjugate pairs are laid out as real and imaginary parts interleaved.
        """
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

        It is computed in float64, which autocast ignores. Without gradients the latest are cached
        until a parameter changes.

        Raises:
            BackendError: If the backend cannot run where the parameters are.
        """
        backend = choose(self.backend, self.ssm.row.device).backend
        if torch.is_grad_enabled():
            self._kernels.clear()  # else training would keep those of a validation
        cached = self._kernels.get(self.ssm.parameters(recurse=False), dict)
        if (length, backend.name) not in cached:
            if len(cached) >= _KERNELS:
                cached.clear()
            cached[length, backend.name] = self._make_kernel(length, backend)
        return cached[length, backend.name]

    def _make_kernel(self, length: int, backend: Backend) -> SequenceKernel:
        system = self.ssm.discretize()
        second = self.ssm.readout_system(system)
        readout = None if second is None else self._kernel(second, length, backend)
        return self._kernel(system, length, backend, readout)

    def _kernel(
        self,
        system: DiscreteSystem,
        length: int,
        backend: Backend,
        readout: SequenceKernel | None = None,
    ) -> SequenceKernel:
        taps = kernel_taps(system, length, backend).to(self.ssm.row.dtype)
        products = CachedBackend(backend)
        return SequenceKernel(taps, convolution_operator(taps), system, products, readout)

    def forward(
        self, u: Tensor, state: Tensor | None = None, kernel: SequenceKernel | None = None
    ) -> Tensor:
        """Return the outputs y (B, T, H).

        Args:
            u: (B, T, H) inputs.
            state: (B, H, N) state left by the steps before, None for zero.
            kernel: From `kernel`, for at least T steps; computed here if None.

        Raises:
            ValueError: If the sequence is longer than the kernel.
        """
        length = u.shape[1]
        kernel = kernel or self.kernel(length)
        if length > kernel.length:
            raise ValueError(f"{length} steps do not fit a kernel made for {kernel.length}.")
        return _convolve(kernel, u, state)

    def sequence(
        self, u: Tensor, state: Tensor | None = None, kernel: SequenceKernel | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return y (B, T, H) and the state after the last step (B, H, N); arguments as above."""
        kernel = kernel or self.kernel(u.shape[1])
        outputs = self(u, state, kernel)
        inputs = u.permute(2, 0, 1).to(torch.float64)
        final = final_state(kernel.system, inputs, _modes(kernel, state), kernel.backend)
        return outputs, as_real(final.transpose(0, 1)).to(outputs.dtype)

    def read_sequence(
        self, u: Tensor, state: Tensor | None = None, kernel: SequenceKernel | None = None
    ) -> Tensor:
        """Return the read-outs C' x_{t+1} of the states that inputs u leave, (B, T, H).

        An S4 output with another C, so it comes from a convolution, too, without any state being
        computed. Arguments are those of `forward`.

        Raises:
            ValueError: If the layer was made without ``readout``.
        """
        readout = (kernel or self.kernel(u.shape[1])).readout
        if readout is None:
            raise ValueError("S4Layer(…, readout=True) is needed to read its states.")
        return _convolve(readout, u, state)

    def coefficients(self) -> StepCoefficients:
        """Return the coefficients of `step`, cached until a parameter changes.

        They are inputs, not constants, of a compiled graph of `recurrence`, so that it stays valid
        when they change.
        """
        return self._cache.get(self.ssm.parameters(recurse=False), self._step_coefficients)

    def _step_coefficients(self) -> StepCoefficients:
        system = self.ssm.discretize()
        return step_coefficients(system, self.ssm.row, self.ssm.readout_system(system))


def _modes(kernel: SequenceKernel, state: Tensor | None) -> Tensor | None:
    """Return a state (B, H, N) as the system sees it, (H, B, modes) in double precision."""
    if state is None:
        return None
    return as_modes(state.to(torch.float64), kernel.system.decay).transpose(0, 1)


def _convolve(kernel: SequenceKernel, u: Tensor, state: Tensor | None) -> Tensor:
    """Return the outputs (B, T, H) for inputs u (B, T, H) after a state (B, H, N)."""
    outputs = causal_convolution(u.permute(2, 0, 1).to(kernel.taps.dtype), kernel.operator)
    start = _modes(kernel, state)
    if start is not None:
        prefix = prefix_response(kernel.system, start, u.shape[1], kernel.backend)
        outputs = outputs + prefix.to(outputs.dtype)
    return outputs.permute(1, 2, 0)
