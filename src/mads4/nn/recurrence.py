"""The recurrent view: one time step of discretized state-space models, O(H N).

States are real tensors (..., N): conjugate pairs with real and imaginary parts interleaved, real
modes as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from mads4.kernels.system import DiscreteSystem, read_out


@dataclass(frozen=True)
class StepCoefficients:
    """A discretized system as the recurrence wants it, in the states' precision.

    The output is written in terms of the state before the step, y_t = C Ā x_t + K_0 u_t, so that
    it is a single dot product whatever Ā is.
    """

    decay: Tensor
    """Ā's diagonal, (H, N / 2, 2) for pairs or (H, N) for real modes."""
    column: Tensor
    """B̄, (H, N)."""
    row: Tensor
    """C Ā as weights of a real dot product with the state, (H, N)."""
    first_tap: Tensor
    """K_0 = C B̄ + D, (H,)."""
    feedback_column: Tensor | None
    """w, (H, N), or None for a diagonal system."""
    feedback_row: Tensor | None
    """v as weights of a real dot product with the state, (H, N)."""
    readout: Tensor | None = None
    """C' as weights of a real dot product with the state, (H, N), or None."""


def as_real(values: Tensor) -> Tensor:
    """Lay complex (..., N / 2) out as real (..., N), parts interleaved; real ones are returned."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2) if values.is_complex() else values


def as_modes(state: Tensor, like: Tensor) -> Tensor:
    """View a state (..., N) as the system sees it: complex (..., N / 2) if `like` is complex."""
    if not like.is_complex():
        return state
    return torch.view_as_complex(state.contiguous().view(*state.shape[:-1], -1, 2))


def _dot_weights(row: Tensor) -> Tensor:
    """Return weights g with Σ g x = 2 Re Σ row x for a state x laid out as real pairs."""
    return as_real(2.0 * row.conj()) if row.is_complex() else row


def step_coefficients(
    system: DiscreteSystem, like: Tensor, readout: DiscreteSystem | None = None
) -> StepCoefficients:
    """Return the coefficients of `recurrence` in the dtype of `like`.

    Args:
        system: The discretized system.
        like: A tensor of the wanted dtype.
        readout: The system with C' for C, None if there is none.
    """
    feedback, row, dtype = system.feedback, system.row, like.dtype
    output_row = row * system.decay
    if feedback is not None:
        output_row = output_row + feedback.row * read_out(row, feedback.column).unsqueeze(-1)
    first_tap = read_out(row, system.column) + system.feedthrough
    decay = torch.view_as_real(system.decay) if system.decay.is_complex() else system.decay
    return StepCoefficients(
        decay=decay.to(dtype),
        column=as_real(system.column).to(dtype),
        row=_dot_weights(output_row).to(dtype),
        first_tap=first_tap.to(dtype),
        feedback_column=None if feedback is None else as_real(feedback.column).to(dtype),
        feedback_row=None if feedback is None else _dot_weights(feedback.row).to(dtype),
        readout=None if readout is None else _dot_weights(readout.row).to(dtype),
    )


def recurrence(system: StepCoefficients, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Advance one time step: x_{t+1} = Ā x_t + B̄ u_t and y_t = C x_{t+1} + D u_t.

    Without gradients the new state is the only large allocation: it holds the terms of the output
    and of the feedback before it holds the state.

    Args:
        system: From `step_coefficients`.
        u: u_t, (B, H).
        state: x_t, (B, H, N).

    Returns:
        y_t (B, H) and x_{t+1} (B, H, N).
    """
    u = u.to(state.dtype)
    following = state * system.row
    y = torch.addcmul(following.sum(-1), u, system.first_tap)
    keep = torch.is_grad_enabled()
    signal = None
    if system.feedback_row is not None:
        following = torch.mul(state, system.feedback_row, out=None if keep else following)
        signal = following.sum(-1, keepdim=True)
    following = _decayed(state, system.decay, None if keep else following)
    if signal is not None and system.feedback_column is not None:
        following = following.addcmul_(signal, system.feedback_column)
    return y, following.addcmul_(u.unsqueeze(-1), system.column)


def _decayed(state: Tensor, decay: Tensor, out: Tensor | None) -> Tensor:
    """Return Ā's diagonal times the state, (B, H, N), written to `out` if given."""
    if decay.ndim == 2:
        return torch.mul(state, decay, out=out)
    pairs = state.contiguous().view(*state.shape[:-1], -1, 2)
    if torch.compiler.is_compiling():  # real arithmetic, which it can fuse
        real, imaginary = pairs.unbind(-1)
        cosine, sine = decay.unbind(-1)
        turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        return torch.stack(turned, dim=-1).flatten(-2)
    into = None if out is None else torch.view_as_complex(out.view(*out.shape[:-1], -1, 2))
    product = torch.mul(torch.view_as_complex(pairs), torch.view_as_complex(decay), out=into)
    return torch.view_as_real(product).flatten(-2)


class Recurrent(nn.Module):
    """The recurrent view of a layer; subclasses define where the coefficients come from."""

    def coefficients(self) -> StepCoefficients:
        """Return the coefficients of a time step."""
        raise NotImplementedError

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one time step, (B, H) and (B, H, N) to the output (B, H) and the next state."""
        return recurrence(self.coefficients(), u, state)

    def read(self, state: Tensor) -> Tensor:
        """Return the read-outs C' x of states (B, H, N), (B, H).

        Raises:
            ValueError: If the layer was made without ``readout``.
        """
        weights = self.coefficients().readout
        if weights is None:
            raise ValueError("S4Layer(…, readout=True) is needed to read its states.")
        return (state * weights).sum(-1)


class FrozenS4(Recurrent):
    """The recurrent view alone, its coefficients fixed: for programs that leave Python.

    `S4Layer` discretizes its parameters in complex double precision whenever they change; here
    the result is kept in buffers, so that what is traced from `step` is real single-precision
    arithmetic on constants.

    Args:
        layer: whose coefficients, as they are now, are copied.
    """

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        with torch.no_grad():
            coefficients = layer.coefficients()
        self._names = [f.name for f in fields(StepCoefficients)]
        for name in self._names:
            value = getattr(coefficients, name)
            self.register_buffer(name, None if value is None else value.clone().contiguous())

    def coefficients(self) -> StepCoefficients:
        """Return the buffers."""
        return StepCoefficients(**{name: getattr(self, name) for name in self._names})
