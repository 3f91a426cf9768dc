"""The Triton kernels' values and gradients, in Triton's interpreter and on a GPU.

Whether kernels are interpreted is settled when Triton is first imported, by whomever. So this file
runs itself as a script in a process of its own, and the tests look up what the script measured.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mads4.kernels.backends import cuda_backend
from mads4.kernels.backends.base import Backend
from mads4.kernels.backends.cuda_backend import BACKEND
from mads4.kernels.backends.torch_backend import BACKEND as TORCH
from mads4.kernels.reference import vandermonde_kernel
from mads4.kernels.vandermonde import vandermonde, vandermonde_transpose

TOLERANCES = {"float64": 1e-10, "float32": 1e-4}
SHAPES = ((1, 1, 1), (2, 4, 3), (3, 1, 48), (7, 4, 1), (37, 4, 5), (500, 1, 3))
"""L, M, N."""
LONG_SHAPES = ((2048, 1, 3), (16_000, 1, 2))
REQUIRES_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An operation with float64 inputs, ready to be computed in several ways."""

    fast: Callable[[Backend, tuple[Tensor, ...]], Tensor]
    plain: Callable[[tuple[Tensor, ...]], Tensor]
    inputs: tuple[Tensor, ...]


def bases(channels: int, pairs: int, real: bool) -> Tensor:
    """Draw bases near the unit circle (real: the unit interval's ends), the first of them zero."""
    modulus = 1.0 - 0.01 * torch.rand(channels, pairs, dtype=torch.float64) ** 2
    angle = 6.3 * torch.rand(channels, pairs, dtype=torch.float64)
    base = modulus * angle.cos().sign() if real else torch.polar(modulus, angle)
    base[0, 0] = 0.0
    return base


def plain_product(inputs: tuple[Tensor, ...], length: int) -> Tensor:
    weight, base = inputs
    if not base.is_complex():
        weight, base = 0.5 * weight, torch.complex(base, torch.zeros_like(base))
    rows = [vandermonde_kernel(w, torch.ones_like(base), base, length) for w in weight.unbind(1)]
    return torch.stack(rows, dim=1)


def plain_transpose(inputs: tuple[Tensor, ...]) -> Tensor:
    values, base = inputs
    matrix = base.unsqueeze(-1) ** torch.arange(values.shape[-1], device=base.device)
    return torch.einsum("hml,hnl->hmn", values.to(base.dtype), matrix)


def problem(operation: str, length: int, sequences: int, pairs: int, channels: int = 2) -> Problem:
    torch.manual_seed(length + pairs)
    name, _, kind = operation.partition(" ")
    dtype = torch.float64 if kind == "real" else torch.complex128
    weight = torch.randn(channels, sequences, pairs, dtype=dtype)
    base = bases(channels, pairs, kind == "real")
    if name == "product":
        return Problem(
            lambda b, x: vandermonde(*x, length, backend=b),
            lambda x: plain_product(x, length),
            (weight, base),
        )
    values = torch.randn(channels, sequences, length, dtype=torch.float64)
    return Problem(
        lambda b, x: vandermonde_transpose(*x, backend=b), plain_transpose, (values, base)
    )


OPERATIONS = ("product complex", "product real", "transpose complex", "transpose real")


def rounded(values: Tensor, dtype: str, device: str) -> Tensor:
    """Return values that both precisions can hold, in the precision to be tested."""
    single = dtype == "float32"
    target = {True: torch.complex64, False: torch.float32}[values.is_complex()]
    return values.to(device, target if single else values.dtype)


def outcome(
    function: Callable[[tuple[Tensor, ...]], Tensor], inputs: tuple[Tensor, ...]
) -> list[Tensor]:
    """Return the value and the gradients with respect to every input."""
    leaves = tuple(each.clone().requires_grad_() for each in inputs)
    value = function(leaves)
    weights = torch.linspace(-1.0, 2.0, value.numel(), device=value.device, dtype=torch.float64)
    cotangent = (weights.view(value.shape) * (1.0 + 0.5j)).to(torch.complex128)
    cotangent = cotangent if value.is_complex() else cotangent.real
    return [value.detach(), *torch.autograd.grad(value, leaves, cotangent.to(value.dtype))]


def worst(result: list[Tensor], exact: list[Tensor]) -> float:
    """Return the largest relative error of any tensor, infinite if anything is NaN."""
    errors = [
        (a - b).abs().max() / b.abs().max().clamp(min=1e-9)
        for a, b in zip(result, exact, strict=True)
    ]
    worst_error = torch.stack(errors).max().item()
    return worst_error if worst_error == worst_error else float("inf")


def error_of(
    operation: str, shape: tuple[int, int, int], dtype: str, device: str = "cpu", channels: int = 2
) -> tuple[float, float | None]:
    """Return errors against the torch backend and, if it fits, the plain formula in float64."""
    case = problem(operation, *shape, channels=channels)
    inputs = tuple(rounded(each, dtype, device) for each in case.inputs)
    exact = tuple(e.to(torch.complex128 if e.is_complex() else torch.float64) for e in inputs)
    result = outcome(lambda x: case.fast(BACKEND, x), inputs)
    assert [each.dtype for each in result[1:]] == [each.dtype for each in inputs]
    assert result[0].dtype in (inputs[0].dtype, inputs[0].real.dtype, inputs[1].dtype)
    against_torch = worst(result, outcome(lambda x: case.fast(TORCH, x), exact))
    if channels * shape[0] * shape[2] > 1 << 22:
        return against_torch, None
    plain = outcome(case.plain, exact)
    # PyTorch's complex 0^0 is NaN, which the plain sums of the channel with the zero become.
    assert all(each[1:].isfinite().all() for each in plain)
    known = [each.isfinite() for each in plain]
    pairs = zip(result, plain, known, strict=True)
    kept = [(torch.where(k, r, 0.0), torch.where(k, p, 0.0)) for r, p, k in pairs]
    return against_torch, worst([r for r, _ in kept], [p for _, p in kept])


def name_of(operation: str, shape: tuple[int, int, int], dtype: str) -> str:
    return f"{operation} {dtype} {shape}"


def error_with_views() -> float:
    """Return the error for inputs that are conjugated, negated or strided only on paper."""
    torch.manual_seed(1)
    base = bases(3, 2, real=False).t().contiguous().t()
    weight = torch.randn(4, 3, 2, dtype=torch.complex128).transpose(0, 1)
    values = torch.randn(3, 4, 9, dtype=torch.complex128).conj()
    got, expected = (
        [
            backend.powers(base.conj(), 9).product(weight.conj()),
            backend.powers(base, 9).transposed(values.imag),
        ]
        for backend in (BACKEND, TORCH)
    )
    return worst(got, expected)


def error_with_growth() -> float:
    """Return the error for |d| > 1, where a tile's unused powers overflow and the used do not."""
    base = torch.tensor([[2.0, 0.0], [-2.0, 1e-40]], dtype=torch.complex64)
    values = torch.ones(2, 1, 100)
    weight = torch.ones(2, 1, 2, dtype=torch.complex64)
    got, expected = (
        [
            backend.powers(base, 100).product(weight),
            backend.powers(base, 100).transposed(values),
        ]
        for backend in (BACKEND, TORCH)
    )
    return worst(got, expected)


def interpret(long: bool) -> dict[str, object]:
    """Measure everything in the interpreter."""
    early = "triton" in sys.modules
    reason = cuda_backend.reason_against(torch.device("cpu"))
    found: dict[str, object] = {"early import": early, "reason": reason}
    for shape in LONG_SHAPES if long else SHAPES:
        for operation in OPERATIONS:
            for dtype in TOLERANCES:
                found[name_of(operation, shape, dtype)] = error_of(operation, shape, dtype)
    return found | {"views": error_with_views(), "growth": error_with_growth()}


def run_interpreted(task: str, folder: Path) -> dict[str, object]:
    target = folder / "found.json"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, task, str(target)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(target.read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return run_interpreted("short", tmp_path_factory.mktemp("short"))


def assert_small(found: object, dtype: str) -> None:
    assert isinstance(found, list)
    assert all(error is None or error <= TOLERANCES[dtype] for error in found), found


@REQUIRES_TRITON
class TestInterpreted:
    @pytest.mark.parametrize("dtype", TOLERANCES)
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_values_and_gradients(
        self, interpreted: dict[str, object], operation: str, dtype: str
    ) -> None:
        for shape in SHAPES:
            assert_small(interpreted[name_of(operation, shape, dtype)], dtype)

    def test_available_without_an_early_import(self, interpreted: dict[str, object]) -> None:
        assert interpreted["reason"] is None
        assert interpreted["early import"] is False

    def test_conjugate_negative_and_strided_inputs(self, interpreted: dict[str, object]) -> None:
        assert interpreted["views"] <= 1e-12  # type: ignore[operator]

    def test_growing_powers_overflow_only_where_they_must(
        self, interpreted: dict[str, object]
    ) -> None:
        assert interpreted["growth"] <= 1e-5  # type: ignore[operator]

    @pytest.mark.slow
    def test_long_sequences(self, tmp_path: Path) -> None:
        found = run_interpreted("long", tmp_path)
        for shape in LONG_SHAPES:
            for operation in OPERATIONS:
                for dtype in TOLERANCES:
                    assert_small(found[name_of(operation, shape, dtype)], dtype)


class TestReasons:
    def test_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "not installed" in str(cuda_backend.reason_against(torch.device("cuda")))

    @REQUIRES_TRITON
    @pytest.mark.parametrize("device", ("cpu", "meta"))
    def test_without_a_device(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        reason = str(cuda_backend.reason_against(torch.device(device)))
        assert reason.startswith("needs a CUDA device") and device in reason

    @REQUIRES_TRITON
    def test_a_kernel_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object, **constants: object) -> None:
            raise RuntimeError("no C compiler\n  found")

        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(cuda_backend.LogarithmicPowers, "_launch", fail)
        reason = str(cuda_backend.reason_against(torch.device("cpu")))
        assert reason.endswith("RuntimeError: no C compiler found")

    @REQUIRES_TRITON
    def test_a_kernel_that_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoil(
            self: object, name: str, tiles: int, values: Tensor, result: Tensor, constants: object
        ) -> None:
            result.fill_(7.0)

        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(cuda_backend.LogarithmicPowers, "_launch", spoil)
        assert "wrong values" in str(cuda_backend.reason_against(torch.device("cpu")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnADevice:
    @pytest.mark.parametrize("dtype", TOLERANCES)
    @pytest.mark.parametrize("operation", OPERATIONS)
    @pytest.mark.parametrize("length", (1, 37, 500, 16_000))
    def test_values_and_gradients(self, operation: str, length: int, dtype: str) -> None:
        found = error_of(operation, (length, 1, 48), dtype, "cuda", channels=96)
        assert_small(list(found), dtype)

    def test_available(self) -> None:
        assert cuda_backend.reason_against(torch.device("cuda")) is None

    def test_agrees_with_the_torch_backend_in_single_precision(self) -> None:
        case = problem("product complex", 500, 4, 48, channels=96)
        inputs = tuple(rounded(each, "float32", "cuda") for each in case.inputs)
        ours, theirs = (
            outcome(lambda x, b=backend: case.fast(b, x), inputs)  # type: ignore[misc]
            for backend in (BACKEND, TORCH)
        )
        assert worst(ours, theirs) <= 1e-4

    def test_the_same_bits_every_time(self) -> None:
        case = problem("transpose complex", 2048, 4, 48, channels=96)
        inputs = tuple(rounded(each, "float32", "cuda") for each in case.inputs)
        first, second = (outcome(lambda x: case.fast(BACKEND, x), inputs) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(interpret(sys.argv[1] == "long")))
