"""Parameters of a bank of state-space models and their discretisation.

x' = A x + B u, y = 2 Re C x + D u per channel, with A = Λ (diagonal) or Λ - P P* (``dplr``).
Re Λ = -exp(·) < 0, and -P P* only removes energy: every discretised system is stable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mads4.kernels.system import DiscreteSystem, Feedback
from mads4.nn.hippo import ComplexArray, legs_nplr, s4d_diagonal

PARAMETERISATIONS = ("diagonal", "dplr")
DISCRETISATIONS = ("zoh", "bilinear")
TRAINABLE = ("A", "B", "C", "dt", "D")

_DYNAMICS = frozenset({"log_decay", "frequency", "low_rank", "column", "log_dt"})


def _pairs(values: ComplexArray, channels: int) -> Tensor:
    """Repeat (N / 2,) complex for every channel as real pairs (H, N / 2, 2)."""
    stacked = np.stack([values.real, values.imag], axis=-1)
    return torch.as_tensor(stacked, dtype=torch.get_default_dtype()).repeat(channels, 1, 1)


def _complex(pairs: Tensor) -> Tensor:
    """Return real pairs (H, N / 2, 2) as complex128 (H, N / 2)."""
    return torch.view_as_complex(pairs.to(torch.float64))


class StateSpace(nn.Module):
    """H single-input single-output state-space models with N real states each.

    Args:
        d_model: H, the number of channels.
        d_state: N, real states per channel; N / 2 conjugate pairs are stored. Even.
        parameterisation: ``diagonal``, or ``dplr`` (HiPPO-LegS, diagonal plus rank one).
        discretisation: ``zoh`` or ``bilinear``; ``dplr`` needs ``bilinear``.
        initialisation: Of a diagonal A: ``legs``, ``lin`` or ``inv``; ``dplr`` is always ``legs``.
        dt_min: Smallest initial step size Δ; Δ is log-uniform over the channels.
        dt_max: Largest initial step size.
        trainable: Which of A (with P), B, C, dt, D receive gradients.
        memory: False replaces Ā by zero, which leaves only the kernel's first tap in either view.

    Raises:
        ValueError: For an unknown or impossible choice, naming what is allowed.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
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
        _check_choices(parameterisation, discretisation, initialisation, trainable)
        if not 0.0 < dt_min <= dt_max:
            raise ValueError(f"0 < dt_min <= dt_max is needed, not {dt_min} and {dt_max}.")
        self.d_model, self.d_state = d_model, d_state
        self.parameterisation, self.discretisation = parameterisation, discretisation
        self.memory = memory

        eigenvalues, low_rank, column = legs_nplr(d_state)
        if parameterisation == "diagonal":
            eigenvalues = s4d_diagonal(d_state, initialisation)
            column = np.ones_like(eigenvalues)
        spectrum = _pairs(eigenvalues, d_model)

        def parameter(values: Tensor, group: str) -> nn.Parameter:
            return nn.Parameter(values.contiguous(), requires_grad=group in trainable)

        self.log_decay = parameter(torch.log(-spectrum[..., 0]), "A")
        self.frequency = parameter(spectrum[..., 1], "A")
        if parameterisation == "dplr":
            self.low_rank = parameter(_pairs(low_rank, d_model), "A")
        self.column = parameter(_pairs(column, d_model), "B")
        self.row = parameter(torch.randn(d_model, d_state // 2, 2) * math.sqrt(0.5), "C")
        ratio = math.log(dt_max / dt_min)
        self.log_dt = parameter(torch.rand(d_model) * ratio + math.log(dt_min), "dt")
        self.feedthrough = parameter(torch.randn(d_model), "D")

    def dynamics(self) -> list[nn.Parameter]:
        """Return A, P, B and Δ: what an optimiser should neither decay nor step fast."""
        return [value for name, value in self.named_parameters() if name in _DYNAMICS]

    def discretise(self) -> DiscreteSystem:
        """Return Ā, B̄, C and D in float64, differentiable in the parameters.

        float64 costs nothing at (H, N / 2) and keeps the phase of Ā^l right over long sequences.
        """
        dt = self.log_dt.to(torch.float64).exp().unsqueeze(-1)
        decay_rate = self.log_decay.to(torch.float64).exp()
        eigenvalues = torch.complex(-decay_rate, self.frequency.to(torch.float64))
        column, row = _complex(self.column), _complex(self.row)
        feedback = None
        if self.discretisation == "zoh":
            decay = torch.exp(dt * eigenvalues)
            discrete_column = torch.expm1(dt * eigenvalues) / eigenvalues * column
        else:
            resolvent = 1.0 / (1.0 - 0.5 * dt * eigenvalues)
            decay = 2.0 * resolvent - 1.0
            discrete_column = dt * resolvent * column
            if self.parameterisation == "dplr":
                feedback = _bilinear_feedback(resolvent, _complex(self.low_rank), dt)
                share = 2.0 * (feedback.row * column).sum(-1, keepdim=True).real
                discrete_column = discrete_column + 0.5 * dt * feedback.column * share
        if not self.memory:
            decay, feedback = torch.zeros_like(decay), None
        return DiscreteSystem(
            decay, discrete_column, row, self.feedthrough.to(torch.float64), feedback
        )


def _bilinear_feedback(resolvent: Tensor, low_rank: Tensor, dt: Tensor) -> Feedback:
    """Return the rank-one part of Ā = 2 (I - ΔA/2)^-1 - I for A = Λ - P P* (Woodbury).

    With R = (1 - ΔΛ/2)^-1 the inverse is R - κ R P P* R, κ = (Δ/2) / (1 + (Δ/2) P* R P), where
    inner products run over both halves of the conjugate pairs.
    """
    loop = 2.0 * (low_rank.abs().square() * resolvent.real).sum(-1, keepdim=True)
    gain = 0.5 * dt / (1.0 + 0.5 * dt * loop)
    return Feedback(column=-2.0 * gain * resolvent * low_rank, row=low_rank.conj() * resolvent)


def _check_choices(
    parameterisation: str, discretisation: str, initialisation: str, trainable: Sequence[str]
) -> None:
    """Raise `ValueError` for names that are not known or do not go together."""
    for what, given, allowed in (
        ("parameterisation", parameterisation, PARAMETERISATIONS),
        ("discretisation", discretisation, DISCRETISATIONS),
    ):
        if given not in allowed:
            raise ValueError(f"Unknown {what} {given!r}; allowed: {', '.join(allowed)}.")
    unknown = [name for name in trainable if name not in TRAINABLE]
    if unknown:
        raise ValueError(f"trainable={unknown} is unknown; allowed: {', '.join(TRAINABLE)}.")
    if parameterisation == "dplr" and discretisation == "zoh":
        raise ValueError(
            "parameterisation=dplr cannot be discretised by zoh; take discretisation=bilinear, "
            "or parameterisation=diagonal."
        )
    if parameterisation == "dplr" and initialisation != "legs":
        raise ValueError(
            f"parameterisation=dplr starts from initialisation=legs, not {initialisation!r}."
        )


def ssm_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return A, P, B and Δ of every state-space model inside `module`.

    They belong in an optimiser group of their own: no weight decay (which would pull the time
    constants towards one value) and often a lower rate.
    """
    spaces = [part for part in module.modules() if isinstance(part, StateSpace)]
    return [value for space in spaces for value in space.dynamics()]
