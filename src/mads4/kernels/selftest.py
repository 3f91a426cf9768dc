"""Check of a backend against reference formulas on this machine, in a fraction of a second.

Values and gradients of every operation that uses the backend, at one small size: enough to find a
wrong driver, a miscompiled kernel or an unusual CPU. The test suite covers other sizes.

Axes: ``H`` channels, ``M`` sequences with the same base, ``N`` conjugate pairs, ``L`` time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mads4.kernels.backends.base import Backend
from mads4.kernels.reference import dense_recurrence, vandermonde_kernel, with_conjugates
from mads4.kernels.system import DiscreteSystem, Feedback, kernel_taps
from mads4.kernels.vandermonde import vandermonde, vandermonde_transpose

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest allowed error, relative to the largest entry of the exact result."""

CHANNELS, SEQUENCES, PAIRS = 3, 2, 5
LENGTH = 257
"""L: prime and just above a power of two, so that no tile size divides it."""

_SEED = 0

Inputs = dict[str, Tensor]
Operation = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Check:
    """The result of one operation at one precision."""

    operation: str
    """In words."""
    dtype: str
    """``float64`` or ``float32``; complex tensors are of the same precision."""
    value_error: float
    """Largest error of the values, relative to the largest exact value."""
    gradient_error: float
    """The same for the gradients, the largest over all inputs."""
    tolerance: float
    """Upper limit of both errors."""
    milliseconds: float
    """Forward and backward pass, compilation at the first use included."""
    failure: str | None = None
    """The exception, if the operation raised one; the errors are then infinite."""

    @property
    def passed(self) -> bool:
        """Whether values and gradients are within the tolerance (NaN is not)."""
        return self.value_error <= self.tolerance and self.gradient_error <= self.tolerance


def check(backend: Backend, device: torch.device | str, dtype: torch.dtype) -> list[Check]:
    """Compare every operation of a backend with its reference formula in float64 on the CPU.

    Inputs are rounded to `dtype` first, so that only the backend's arithmetic counts. The global
    random state is not touched.

    Args:
        backend: The backend under test; it must be able to run on `device`.
        device: Where its tensors are.
        dtype: ``torch.float64`` or ``torch.float32``.

    Returns:
        One entry per operation. An operation that raises counts as failed.
    """
    return [_check(operation, backend, torch.device(device), dtype) for operation in _OPERATIONS]


def _check(operation: str, backend: Backend, device: torch.device, dtype: torch.dtype) -> Check:
    names, fast, plain = _OPERATIONS[operation]
    drawn = _draw()
    inputs = {name: _rounded(drawn[name], dtype).to(device) for name in names}
    exact = {name: _rounded(value.cpu(), torch.float64) for name, value in inputs.items()}
    expected, expected_slopes = _with_gradients(plain, exact)

    started = time.perf_counter()
    try:
        values, slopes = _with_gradients(lambda given: fast(given, backend), inputs)
        value_error = relative_error(values, expected)
        errors = [relative_error(slopes[name], slope) for name, slope in expected_slopes.items()]
        gradient_error = float(torch.tensor(errors, dtype=torch.float64).max())  # keeps a NaN
        failure = None
    except Exception as error:  # any exception of a backend is a failed check
        value_error = gradient_error = float("inf")
        failure = f"{type(error).__name__}: {error}"
    milliseconds = 1e3 * (time.perf_counter() - started)
    precision, tolerance = str(dtype).removeprefix("torch."), TOLERANCES[dtype]
    return Check(
        operation, precision, value_error, gradient_error, tolerance, milliseconds, failure
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
    """Return the values, and their vector-Jacobian products with fixed random numbers."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    values = operation(leaves)
    like = torch.complex128 if values.is_complex() else torch.float64
    generator = torch.Generator().manual_seed(_SEED + 1)
    direction = torch.randn(values.shape, generator=generator, dtype=like)
    gradients = torch.autograd.grad(values, list(leaves.values()), direction.to(values))
    return values.detach(), dict(zip(leaves, gradients, strict=True))


def _draw() -> Inputs:
    """Draw the inputs of all operations.

    Moduli of the diagonal are between 0.9 and 1 with any phase, and the feedback is so weak that
    the response stays bounded over L steps.
    """
    generator = torch.Generator().manual_seed(_SEED)

    def normal(*shape: int, dtype: torch.dtype = torch.complex128) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    modulus = 0.9 + 0.1 * torch.rand(CHANNELS, PAIRS, generator=generator, dtype=torch.float64)
    phase = 3.0 * torch.rand(modulus.shape, generator=generator, dtype=modulus.dtype)
    return {
        "weight": normal(CHANNELS, SEQUENCES, PAIRS),
        "values": normal(CHANNELS, SEQUENCES, LENGTH, dtype=torch.float64),
        "decay": torch.polar(modulus, phase),
        "column": normal(CHANNELS, PAIRS),
        "row": normal(CHANNELS, PAIRS),
        "feedthrough": normal(CHANNELS, dtype=torch.float64),
        "feedback_column": 0.05 * normal(CHANNELS, PAIRS),
        "feedback_row": 0.05 * normal(CHANNELS, PAIRS),
    }


def _product(given: Inputs) -> Tensor:
    decay, rows = given["decay"], given["weight"].unbind(1)
    ones = torch.ones_like(decay)
    return torch.stack([vandermonde_kernel(row, ones, decay, LENGTH) for row in rows], 1)


def _transpose(given: Inputs) -> Tensor:
    matrix = given["decay"].unsqueeze(-1) ** torch.arange(LENGTH)
    return torch.einsum("hml,hnl->hmn", given["values"].to(matrix.dtype), matrix)


def _kernel(given: Inputs) -> Tensor:
    """Return the impulse response of the recurrence with a dense Ā."""
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


def _fast_kernel(given: Inputs, backend: Backend) -> Tensor:
    feedback = None
    if "feedback_row" in given:
        feedback = Feedback(given["feedback_column"], given["feedback_row"])
    decay, column, row, feedthrough = (given[name] for name in _DIAGONAL)
    return kernel_taps(DiscreteSystem(decay, column, row, feedthrough, feedback), LENGTH, backend)


_DIAGONAL = ("decay", "column", "row", "feedthrough")
_DPLR = (*_DIAGONAL, "feedback_column", "feedback_row")
_OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[[Inputs, Backend], Tensor], Operation]] = {
    "Vandermonde product": (
        ("weight", "decay"),
        lambda given, backend: vandermonde(given["weight"], given["decay"], LENGTH, backend),
        _product,
    ),
    "Vandermonde transpose": (
        ("values", "decay"),
        lambda given, backend: vandermonde_transpose(given["values"], given["decay"], backend),
        _transpose,
    ),
    "diagonal kernel": (_DIAGONAL, _fast_kernel, _kernel),
    "DPLR kernel": (_DPLR, _fast_kernel, _kernel),
}
"""Operation → names of its inputs, the operation by a backend, and by reference formulas."""
