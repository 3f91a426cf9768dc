"""A backend against the plain formulas on this machine, in a fraction of a second.

Values and gradients of every operation that a backend takes part in, at one small size: what a
wrong driver, a miscompiled kernel or an unusual CPU would spoil. The test suite covers the sizes.

Axes: ``H`` channels, ``M`` sequences sharing one set of nodes, ``N`` conjugate pairs, ``L`` time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mads4.kernels.backends.protocol import Backend
from mads4.kernels.cauchy import cauchy
from mads4.kernels.reference import dense_recurrence, vandermonde_kernel, with_conjugates
from mads4.kernels.system import DiscreteSystem, Feedback, kernel_taps
from mads4.kernels.vandermonde import vandermonde, vandermonde_transpose

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest error that is allowed, relative to the largest entry of the exact result."""

CHANNELS, SEQUENCES, PAIRS = 3, 2, 5
LENGTH = 257
"""L: prime and just above a power of two, so that no tile or block of a backend comes out even."""

_SEED = 0

Inputs = dict[str, Tensor]
Operation = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Check:
    """What one operation of one backend gave at one precision."""

    operation: str
    """In words."""
    dtype: str
    """``float64`` or ``float32``; complex tensors are of the same precision."""
    value_error: float
    """Largest error of the values, relative to the largest exact value."""
    gradient_error: float
    """The same for the gradients, the largest over all inputs."""
    tolerance: float
    """What both errors may be at most."""
    milliseconds: float
    """Forward and backward pass of the backend, with what it compiles at its first use."""
    failure: str | None = None
    """The exception, if the operation ended in one; the errors are then infinite."""

    @property
    def passed(self) -> bool:
        """Whether values and gradients are within the tolerance (NaN is not)."""
        return self.value_error <= self.tolerance and self.gradient_error <= self.tolerance


@dataclass(frozen=True)
class _Case:
    """An operation, as a backend computes it and as the plain formula does."""

    operation: str
    inputs: Callable[[torch.Generator], Inputs]
    fast: Callable[[Inputs, Backend], Tensor]
    plain: Operation


def check(backend: Backend, device: torch.device | str, dtype: torch.dtype) -> list[Check]:
    """Compare every operation of a backend with its plain formula in float64 on the CPU.

    Inputs are rounded to `dtype` first, so that only the backend's arithmetic counts. No global
    random state is touched.

    Args:
        backend: Whom to test; it has to be able to run on `device`.
        device: Where its tensors are.
        dtype: ``torch.float64`` or ``torch.float32``.

    Returns:
        One entry per operation. An operation that raises is a failed one, not an exception here.
    """
    return [_check(case, backend, torch.device(device), dtype) for case in _CASES]


def _check(case: _Case, backend: Backend, device: torch.device, dtype: torch.dtype) -> Check:
    generator = torch.Generator().manual_seed(_SEED)
    drawn = case.inputs(generator)
    inputs = {name: _rounded(value, dtype).to(device) for name, value in drawn.items()}
    exact = {name: _rounded(value.cpu(), torch.float64) for name, value in inputs.items()}
    expected, expected_slopes = _with_gradients(case.plain, exact)

    started = time.perf_counter()
    try:
        values, slopes = _with_gradients(lambda given: case.fast(given, backend), inputs)
        value_error = relative_error(values, expected)
        errors = [relative_error(slopes[name], slope) for name, slope in expected_slopes.items()]
        gradient_error = float(torch.tensor(errors, dtype=torch.float64).max())  # keeps a NaN
        failure = None
    except Exception as error:  # whatever a backend raises is the finding
        value_error = gradient_error = float("inf")
        failure = f"{type(error).__name__}: {error}"
    return Check(
        operation=case.operation,
        dtype=str(dtype).removeprefix("torch."),
        value_error=value_error,
        gradient_error=gradient_error,
        tolerance=TOLERANCES[dtype],
        milliseconds=1e3 * (time.perf_counter() - started),
        failure=failure,
    )


def relative_error(given: Tensor, expected: Tensor) -> float:
    """Return max |given - expected| / max |expected|; NaN if anything is.

    Raises:
        ValueError: If the shapes differ.
    """
    if given.shape != expected.shape:
        raise ValueError(f"shape {tuple(given.shape)} instead of {tuple(expected.shape)}")
    difference = (_rounded(given.cpu(), torch.float64) - expected).abs().max()
    return float(difference / expected.abs().max())


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype.to_complex() if value.is_complex() else dtype)


def _with_gradients(operation: Operation, inputs: Inputs) -> tuple[Tensor, Inputs]:
    """Return the values and the gradients of their product with fixed random numbers."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    values = operation(leaves)
    like = torch.complex128 if values.is_complex() else torch.float64
    generator = torch.Generator().manual_seed(_SEED + 1)
    direction = torch.randn(values.shape, generator=generator, dtype=like)
    gradients = torch.autograd.grad(values, list(leaves.values()), direction.to(values))
    return values.detach(), dict(zip(leaves, gradients, strict=True))


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


def _inside_unit_circle(generator: torch.Generator) -> Tensor:
    """Return what Ā may be: decays between 0.9 and 1 with any phase, (H, N)."""
    modulus = 0.9 + 0.1 * torch.rand(CHANNELS, PAIRS, generator=generator, dtype=torch.float64)
    phase = 3.0 * torch.rand(modulus.shape, generator=generator, dtype=modulus.dtype)
    return torch.polar(modulus, phase)


def _vandermonde_inputs(generator: torch.Generator) -> Inputs:
    weight = _normal(generator, CHANNELS, SEQUENCES, PAIRS)
    return {"weight": weight, "base": _inside_unit_circle(generator)}


def _vandermonde_plain(given: Inputs) -> Tensor:
    rows = given["weight"].unbind(1)
    ones = torch.ones_like(given["base"])
    return torch.stack([vandermonde_kernel(row, ones, given["base"], LENGTH) for row in rows], 1)


def _transpose_inputs(generator: torch.Generator) -> Inputs:
    values = torch.randn(CHANNELS, SEQUENCES, LENGTH, generator=generator, dtype=torch.float64)
    return {"values": values, "base": _inside_unit_circle(generator)}


def _transpose_plain(given: Inputs) -> Tensor:
    matrix = given["base"].unsqueeze(-1) ** torch.arange(LENGTH)
    return torch.einsum("hml,hnl->hmn", given["values"].to(matrix.dtype), matrix)


def _cauchy_inputs(generator: torch.Generator) -> Inputs:
    """Draw poles left of the imaginary axis and nodes on it, as S4's generating function has."""
    height = torch.linspace(-20.0, 20.0, LENGTH, dtype=torch.float64)
    frequency = 15.0 * torch.rand(CHANNELS, PAIRS, generator=generator, dtype=torch.float64)
    return {
        "weight": _normal(generator, CHANNELS, SEQUENCES, PAIRS),
        "poles": torch.complex(torch.full_like(frequency, -0.5), frequency),
        "nodes": torch.complex(torch.zeros_like(height), height),
    }


def _cauchy_plain(given: Inputs) -> Tensor:
    weight, poles = with_conjugates(given["weight"]), with_conjugates(given["poles"])
    return torch.einsum("hmn,hnl->hml", weight, 1.0 / (given["nodes"] - poles.unsqueeze(-1)))


def _diagonal_inputs(generator: torch.Generator) -> Inputs:
    return {
        "decay": _inside_unit_circle(generator),
        "column": _normal(generator, CHANNELS, PAIRS),
        "row": _normal(generator, CHANNELS, PAIRS),
        "feedthrough": torch.randn(CHANNELS, generator=generator, dtype=torch.float64),
    }


def _dplr_inputs(generator: torch.Generator) -> Inputs:
    """Draw a feedback weak enough that the response stays bounded over L steps."""
    return _diagonal_inputs(generator) | {
        "feedback_column": 0.05 * _normal(generator, CHANNELS, PAIRS),
        "feedback_row": 0.05 * _normal(generator, CHANNELS, PAIRS),
    }


def _system(given: Inputs) -> DiscreteSystem:
    feedback = None
    if "feedback_row" in given:
        feedback = Feedback(column=given["feedback_column"], row=given["feedback_row"])
    return DiscreteSystem(
        decay=given["decay"],
        column=given["column"],
        row=given["row"],
        feedthrough=given["feedthrough"],
        feedback=feedback,
    )


def _kernel_plain(given: Inputs) -> Tensor:
    """Return the answer to one impulse of the recurrence with a dense Ā."""
    discrete = torch.diag_embed(with_conjugates(given["decay"]))
    if "feedback_row" in given:
        left = with_conjugates(given["feedback_column"])
        right = with_conjugates(given["feedback_row"])
        discrete = discrete + left.unsqueeze(-1) * right.unsqueeze(-2)
    impulse = torch.zeros(CHANNELS, 1, LENGTH, dtype=torch.float64)
    impulse[..., 0] = 1.0
    column, row = with_conjugates(given["column"]), with_conjugates(given["row"])
    rest = torch.zeros_like(column).unsqueeze(1)
    outputs, _ = dense_recurrence(discrete, column, row, impulse, rest)
    return (outputs + given["feedthrough"][:, None, None] * impulse).squeeze(1)


def _kernel_fast(given: Inputs, backend: Backend) -> Tensor:
    return kernel_taps(_system(given), LENGTH, backend)


_CASES = (
    _Case(
        "Vandermonde product",
        _vandermonde_inputs,
        lambda given, backend: vandermonde(given["weight"], given["base"], LENGTH, backend),
        _vandermonde_plain,
    ),
    _Case(
        "Vandermonde transpose",
        _transpose_inputs,
        lambda given, backend: vandermonde_transpose(given["values"], given["base"], backend),
        _transpose_plain,
    ),
    _Case(
        "Cauchy product",
        _cauchy_inputs,
        lambda given, backend: cauchy(given["weight"], given["poles"], given["nodes"], backend),
        _cauchy_plain,
    ),
    _Case("diagonal kernel", _diagonal_inputs, _kernel_fast, _kernel_plain),
    _Case("DPLR kernel", _dplr_inputs, _kernel_fast, _kernel_plain),
)
