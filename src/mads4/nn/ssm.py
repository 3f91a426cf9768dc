"""Parameters of a bank of state-space models and their discretization.

x' = A x + B u, y = 2 Re C x + D u per channel, with A = Λ (diagonal) or Λ - P P* (``dplr``); with
a real Λ, y = C x + D u. Re Λ = -exp(·) < 0, and -P P* only removes energy: every discretized
system is stable. Complex parameters are kept as real pairs, which every optimizer, autocast,
GradScaler and `torch.compile` understand.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from mads4.kernels.system import DiscreteSystem, Feedback, read_out
from mads4.nn.hippo import S4D_INITIALIZATIONS, legs_nplr, s4d_diagonal

PARAMETERIZATIONS = ("diagonal", "dplr")
DISCRETIZATIONS = ("zoh", "bilinear")
INITIALIZATIONS = (*S4D_INITIALIZATIONS, "random")
SYMBOLS = ("A", "B", "C", "dt", "D")

SYMBOL_OF = {
    "log_decay": "A",
    "frequency": "A",
    "low_rank": "A",
    "column": "B",
    "row": "C",
    "readout": "C",
    "log_dt": "dt",
    "feedthrough": "D",
}
"""Parameter of `StateSpace` → its group, in learning rates and ``algorithm.freeze``."""


class StateSpace(nn.Module):
    """H single-input single-output state-space models with N real states each.

    Args:
        d_model: H, the number of channels.
        d_state: N, real states per channel: N / 2 conjugate pairs (N even), or N real modes.
        parameterization: ``diagonal``, or ``dplr`` (HiPPO-LegS, diagonal plus rank one).
        discretization: ``zoh`` or ``bilinear``; ``dplr`` needs ``bilinear``, because the matrix
            exponential of a diagonal-plus-rank-one matrix is dense.
        initialization: Of a diagonal A: ``legs``, ``lin``, ``inv``, ``random`` or ``real``
            (N real modes -1 … -N instead of pairs); ``dplr`` is always ``legs``.
        n_ssm: Number of independent pairs of A and B; channel h has pair h mod n_ssm. A divisor of
            H; None for one per channel.
        dt_min: Smallest initial step size Δ; Δ is log-uniform over the channels.
        dt_max: Largest initial step size.
        stateless: Replace Ā by zero, which leaves only the kernel's first tap in either view.
        readout: Have a second output vector C' besides C, see `S4Layer`.

    Raises:
        ValueError: For an unknown or impossible choice, naming what is allowed.
    """

    log_decay: nn.Parameter
    """log(-Re Λ), (n_ssm, N / 2), or (n_ssm, N) for real modes."""
    frequency: nn.Parameter
    """Im Λ, (n_ssm, N / 2); absent for real modes."""
    low_rank: nn.Parameter
    """P as real pairs, (n_ssm, N / 2, 2); ``dplr`` only."""
    column: nn.Parameter
    """B as real pairs, (n_ssm, N / 2, 2), or (n_ssm, N)."""
    row: nn.Parameter
    """C as real pairs, (H, N / 2, 2), or (H, N)."""
    readout: nn.Parameter | None
    """C' like C, or None."""
    log_dt: nn.Parameter
    """log Δ, (H,)."""
    feedthrough: nn.Parameter
    """D, (H,)."""

    def __init__(
        self,
        d_model: int,
        d_state: int,
        *,
        parameterization: str = "diagonal",
        discretization: str = "zoh",
        initialization: str = "legs",
        n_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        stateless: bool = False,
        readout: bool = False,
    ) -> None:
        super().__init__()
        _check_choices(parameterization, discretization, initialization)
        copies = d_model if n_ssm is None else n_ssm
        if copies < 1 or d_model % copies:
            raise ValueError(f"n_ssm={n_ssm} must divide the {d_model} channels (d_model).")
        if not 0.0 < dt_min <= dt_max:
            raise ValueError(f"0 < dt_min <= dt_max is needed, not {dt_min} and {dt_max}.")
        self.d_model, self.d_state = d_model, d_state
        self.parameterization, self.discretization = parameterization, discretization
        self.real = initialization == "real"
        self.stateless = stateless

        eigenvalues, low_rank, column = _initial(parameterization, initialization, copies, d_state)
        self._add("log_decay", torch.log(-eigenvalues.real))
        if not self.real:
            self._add("frequency", eigenvalues.imag)
        if low_rank is not None:
            self._add("low_rank", low_rank)
        self._add("column", column)
        modes = column.shape[-1]
        self._add("row", self._random_row(modes))
        ratio = math.log(dt_max / dt_min)
        self._add("log_dt", torch.rand(d_model) * ratio + math.log(dt_min))
        self._add("feedthrough", torch.randn(d_model))
        if readout:
            self._add("readout", self._random_row(modes))
        else:
            self.register_parameter("readout", None)

    def _random_row(self, modes: int) -> Tensor:
        """Return normal numbers of unit variance, (H, modes)."""
        if self.real:
            return torch.randn(self.d_model, modes)
        return torch.view_as_complex(torch.randn(self.d_model, modes, 2) * math.sqrt(0.5))

    def _add(self, name: str, values: Tensor) -> None:
        """Register a parameter in the default dtype; complex values become real pairs."""
        if values.is_complex():
            values = torch.view_as_real(values.resolve_conj())
        values = values.to(torch.get_default_dtype()).contiguous()
        self.register_parameter(name, nn.Parameter(values))

    def _double(self, pairs: Tensor) -> Tensor:
        """Return B, C or P for all channels in double precision, (H, modes)."""
        values = pairs.to(torch.float64)
        return self._per_channel(values if self.real else torch.view_as_complex(values))

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.repeat(self.d_model // values.shape[0], 1)

    def readout_system(self, system: DiscreteSystem) -> DiscreteSystem | None:
        """Return `system` with the output C' x instead of C x + D u, None if there is no C'."""
        if self.readout is None:
            return None
        feedthrough = torch.zeros_like(system.feedthrough)
        return replace(system, row=self._double(self.readout), feedthrough=feedthrough)

    def discretize(self) -> DiscreteSystem:
        """Return Ā, B̄, C and D in float64, differentiable in the parameters.

        float64 costs nothing at (H, N / 2) and keeps the phase of Ā^l right over long sequences.
        """
        dt = self.log_dt.to(torch.float64).exp().unsqueeze(-1)
        eigenvalues = -self.log_decay.to(torch.float64).exp()
        if not self.real:
            eigenvalues = torch.complex(eigenvalues, self.frequency.to(torch.float64))
        eigenvalues = self._per_channel(eigenvalues)
        column, row = self._double(self.column), self._double(self.row)
        feedback = None
        if self.discretization == "zoh":
            decay = torch.exp(dt * eigenvalues)
            discrete_column = torch.expm1(dt * eigenvalues) / eigenvalues * column
        else:
            resolvent = 1.0 / (1.0 - 0.5 * dt * eigenvalues)
            decay = 2.0 * resolvent - 1.0
            discrete_column = dt * resolvent * column
            if self.parameterization == "dplr":
                feedback = _bilinear_feedback(resolvent, self._double(self.low_rank), dt)
                share = read_out(feedback.row, column).unsqueeze(-1)
                discrete_column = discrete_column + 0.5 * dt * feedback.column * share
        if self.stateless:
            decay, feedback = torch.zeros_like(decay), None
        return DiscreteSystem(
            decay, discrete_column, row, self.feedthrough.to(torch.float64), feedback
        )


def _initial(
    parameterization: str, initialization: str, copies: int, d_state: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return Λ, P (None if diagonal) and B, each (copies, modes)."""
    if parameterization == "dplr":
        eigenvalues, low_rank, column = (
            torch.from_numpy(values).repeat(copies, 1) for values in legs_nplr(d_state)
        )
        return eigenvalues, low_rank, column
    if initialization == "random":
        frequency = math.pi * d_state / 2 * torch.rand(copies, d_state // 2)
        eigenvalues = torch.complex(torch.full_like(frequency, -0.5), frequency)
    else:
        eigenvalues = torch.from_numpy(s4d_diagonal(d_state, initialization)).repeat(copies, 1)
    return eigenvalues, None, torch.ones_like(eigenvalues)


def _bilinear_feedback(resolvent: Tensor, low_rank: Tensor, dt: Tensor) -> Feedback:
    """Return the rank-one part of Ā = 2 (I - ΔA/2)^-1 - I for A = Λ - P P* (Woodbury).

    With R = (1 - ΔΛ/2)^-1 the inverse is R - κ R P P* R, κ = (Δ/2) / (1 + (Δ/2) P* R P), where
    inner products run over both halves of the conjugate pairs.
    """
    loop = 2.0 * (low_rank.abs().square() * resolvent.real).sum(-1, keepdim=True)
    gain = 0.5 * dt / (1.0 + 0.5 * dt * loop)
    return Feedback(column=-2.0 * gain * resolvent * low_rank, row=low_rank.conj() * resolvent)


def _check_choices(parameterization: str, discretization: str, initialization: str) -> None:
    """Raise `ValueError` for names that are not known or do not go together."""
    for what, given, allowed in (
        ("parameterization", parameterization, PARAMETERIZATIONS),
        ("discretization", discretization, DISCRETIZATIONS),
        ("initialization", initialization, INITIALIZATIONS),
    ):
        if given not in allowed:
            raise ValueError(f"Unknown {what} {given!r}; allowed: {', '.join(allowed)}.")
    if parameterization == "dplr" and discretization == "zoh":
        raise ValueError(
            "parameterization=dplr cannot be discretized by zoh; take discretization=bilinear, "
            "or parameterization=diagonal."
        )
    if parameterization == "dplr" and initialization != "legs":
        raise ValueError(
            f"parameterization=dplr starts from initialization=legs, not {initialization!r}."
        )


def ssm_parameters(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of every state-space model inside `module` by group, see `SYMBOL_OF`.

    A, B and dt belong in optimizer groups of their own: no weight decay (which would pull the time
    constants towards one value) and often a lower rate.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in SYMBOLS}
    for space in module.modules():
        if isinstance(space, StateSpace):
            for name, value in space.named_parameters():
                groups[SYMBOL_OF[name]].append(value)
    return groups
