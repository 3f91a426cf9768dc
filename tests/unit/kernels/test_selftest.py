"""The self-test passes the reference backend, and finds every way to be wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mads4.kernels.backends import Backend, Powers
from mads4.kernels.backends.torch_backend import BACKEND as TORCH
from mads4.kernels.selftest import TOLERANCES, Check, check, relative_error

OPERATIONS = {
    "Vandermonde product",
    "Vandermonde transpose",
    "diagonal kernel",
    "DPLR kernel",
}


def same(values: Tensor) -> Tensor:
    return values


def slightly_off(values: Tensor) -> Tensor:
    return values * (1.0 + 3e-4)


def breaks(values: Tensor) -> Tensor:
    raise RuntimeError("no kernel image is available")


def on_first_call(spoil: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Spoil the first result only, that of the Vandermonde product."""
    calls = itertools.count()
    return lambda values: spoil(values) if next(calls) == 0 else values


@dataclass(frozen=True)
class SpoiltPowers:
    powers: Powers
    backend: Spoilt

    def product(self, weight: Tensor) -> Tensor:
        return self.backend.on_product(self.powers.product(weight))

    def transposed(self, values: Tensor) -> Tensor:
        return self.backend.on_transposed(self.powers.transposed(values))


@dataclass(frozen=True)
class Spoilt:
    """The reference backend with one of its results changed."""

    name: str = "fake"
    on_product: Callable[[Tensor], Tensor] = same
    on_transposed: Callable[[Tensor], Tensor] = same

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> SpoiltPowers:
        return SpoiltPowers(TORCH.powers(base, length), self)


def by_operation(backend: Backend, dtype: torch.dtype = torch.float64) -> dict[str, Check]:
    return {found.operation: found for found in check(backend, "cpu", dtype)}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("backend", [TORCH, Spoilt()], ids=["torch", "fake"])
def test_a_right_backend_passes(backend: Backend, dtype: torch.dtype) -> None:
    found = by_operation(backend, dtype)
    assert set(found) == OPERATIONS
    for row in found.values():
        assert row.passed, row
        assert max(row.value_error, row.gradient_error) < 0.1 * TOLERANCES[dtype]
        assert row.dtype == str(dtype).removeprefix("torch.")
        assert row.milliseconds > 0


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("spoil", "values", "gradients"),
    [
        (
            "on_product",
            {"Vandermonde product", "diagonal kernel", "DPLR kernel"},
            {"Vandermonde transpose"},
        ),
        (
            "on_transposed",
            {"Vandermonde transpose"},
            {"Vandermonde product", "diagonal kernel", "DPLR kernel"},
        ),
    ],
)
def test_wrong_values_and_wrong_gradients_are_told_apart(
    spoil: str, values: set[str], gradients: set[str], dtype: torch.dtype
) -> None:
    found = by_operation(Spoilt(**{spoil: slightly_off}), dtype)
    assert {name for name, row in found.items() if not row.passed} == values | gradients
    for name in values:
        assert found[name].value_error == pytest.approx(3e-4, rel=0.1)
    for name in gradients:
        assert found[name].value_error < TOLERANCES[dtype] < found[name].gradient_error


def test_what_is_not_a_number_fails() -> None:
    spoil = on_first_call(lambda values: values * float("nan"))
    found = by_operation(Spoilt(on_product=spoil))
    assert [name for name, row in found.items() if not row.passed] == ["Vandermonde product"]


def test_one_gradient_that_is_not_a_number_fails() -> None:
    calls = itertools.count()

    def spoil_slope(values: Tensor) -> Tensor:
        """Spoil the second call only: it serves the product's gradient by the base."""
        return torch.full_like(values, float("nan")) if next(calls) == 1 else values

    found = by_operation(Spoilt(on_transposed=spoil_slope))
    assert not found["Vandermonde product"].passed
    assert found["Vandermonde product"].value_error < 1e-10
    assert found["Vandermonde transpose"].passed


def test_an_exception_is_a_finding() -> None:
    found = by_operation(Spoilt(on_product=on_first_call(breaks)))
    assert found["Vandermonde product"].failure == "RuntimeError: no kernel image is available"
    assert not found["Vandermonde product"].passed
    assert found["DPLR kernel"].passed


def test_a_wrong_shape_is_a_finding() -> None:
    found = by_operation(Spoilt(on_product=lambda values: values[..., :-1]))
    assert found["Vandermonde product"].failure == (
        "ValueError: shape (3, 2, 256) instead of (3, 2, 257)"
    )


def test_the_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check(TORCH, "cpu", torch.float32)
    assert torch.rand(1) == expected


def test_relative_error_is_relative_to_the_largest_entry() -> None:
    expected = torch.tensor([4.0, 0.0], dtype=torch.float64)
    assert relative_error(torch.tensor([4.0, 1.0]), expected) == 0.25


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_torch_passes_on_a_gpu(dtype: torch.dtype) -> None:
    assert all(row.passed for row in check(TORCH, "cuda", dtype))
