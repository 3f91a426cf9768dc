"""KeOps products against plain sums and the torch backend; why it cannot run where it cannot."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mads4.kernels import reference
from mads4.kernels.backends import keops_backend
from mads4.kernels.backends.base import Backend
from mads4.kernels.backends.torch_backend import BACKEND as TORCH
from mads4.kernels.vandermonde import vandermonde, vandermonde_transpose

CPU = torch.device("cpu")
LENGTHS = [1, 2, 3, 37, 500, *(pytest.param(n, marks=pytest.mark.slow) for n in (2048, 16_000))]
TOLERANCE = {torch.complex64: 1e-4, torch.complex128: 1e-10}
SCRIPT = """
import torch
from mads4.kernels.backends.keops_backend import reason_against
print(reason_against(torch.device("cpu")))
"""
WITHOUT_COMPILER = f"""{SCRIPT}
import os
os.environ.update(PATH=os.environ["EMPTY"], CXX="")
print(reason_against(torch.device("cpu")))
"""


@pytest.fixture(scope="module")
def keops() -> Backend:
    reason = keops_backend.reason_against(CPU)
    if reason is not None:
        pytest.skip(reason)
    return keops_backend.BACKEND


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    expected = expected.to(torch.promote_types(actual.dtype, torch.float64))
    scale = expected.abs().amax().clamp(min=1e-300)
    assert ((actual - expected).abs().amax() / scale).item() <= tolerance


def random_base(nodes: int, dtype: torch.dtype) -> Tensor:
    """One channel that decays slowly, one fast; with more than one node, one base is zero."""
    decay = torch.tensor([[1e-5], [0.5]]) * (1.0 + torch.rand(2, nodes))
    base = torch.polar((-decay).exp(), 6.28 * torch.rand(2, nodes) - 3.14)
    if nodes > 1:
        base[:, 1] = 0.0
    return base.to(dtype)


def exact(*tensors: Tensor) -> list[Tensor]:
    """Float64 leaves of the same values."""
    return [
        t.detach().to(torch.promote_types(t.dtype, torch.float64)).requires_grad_() for t in tensors
    ]


def compare(function, inputs: list[Tensor], keops: Backend, tolerance: float) -> None:
    """Values and gradients with respect to every input, against torch in float64."""
    inputs = [t.requires_grad_() for t in inputs]
    doubles = exact(*inputs)
    actual, expected = function(*inputs, keops), function(*doubles, TORCH)
    assert actual.dtype == function(*inputs, TORCH).dtype
    assert_close(actual, expected, tolerance)
    direction = torch.randn_like(actual)
    gradients = torch.autograd.grad(actual, inputs, direction)
    references = torch.autograd.grad(expected, doubles, direction.to(expected.dtype))
    for gradient, truth in zip(gradients, references, strict=True):
        assert_close(gradient, truth, tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("nodes", "sequences"), [(1, 1), (48, 4)])
@pytest.mark.parametrize("length", LENGTHS)
class TestParity:
    def test_vandermonde(self, keops, length, nodes, sequences, dtype):
        weight, base = torch.randn(2, sequences, nodes, dtype=dtype), random_base(nodes, dtype)

        def product(weight: Tensor, base: Tensor, backend: Backend) -> Tensor:
            return vandermonde(weight, base, length, backend)

        compare(product, [weight, base], keops, TOLERANCE[dtype])

    def test_vandermonde_transpose(self, keops, length, nodes, sequences, dtype):
        values = torch.randn(2, sequences, length, dtype=dtype.to_real())
        compare(vandermonde_transpose, [values, random_base(nodes, dtype)], keops, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
class TestPlainSums:
    def test_vandermonde_is_the_reference_kernel(self, keops, dtype):
        row, column = torch.randn(2, 2, 8, dtype=dtype)
        base = torch.polar(0.5 + 0.5 * torch.rand(2, 8), 3.0 * torch.randn(2, 8)).to(dtype)
        actual = vandermonde((row * column).unsqueeze(1), base, 100, keops).squeeze(1)
        whole = [t.to(torch.complex128) for t in (row, column, base)]
        assert_close(actual, reference.vandermonde_kernel(*whole, 100), TOLERANCE[dtype])

    def test_real_base(self, keops, dtype):
        base = torch.tensor([[0.9, -0.7, 0.0, 1.0]], dtype=dtype.to_real())
        weight = torch.randn(1, 2, 4, dtype=dtype.to_real())

        def product(weight: Tensor, base: Tensor, backend: Backend) -> Tensor:
            return vandermonde(weight, base, 70, backend)

        compare(product, [weight, base], keops, TOLERANCE[dtype])
        values = torch.randn(1, 2, 70, dtype=dtype.to_real())
        compare(vandermonde_transpose, [values, base], keops, TOLERANCE[dtype])


def test_zero_to_the_zeroth_is_one(keops):
    weight = torch.ones(1, 1, 1, dtype=torch.complex64)
    taps = vandermonde(weight, torch.zeros(1, 1, dtype=torch.complex64), 70, keops)
    assert taps.flatten().tolist() == [2.0] + [0.0] * 69


def test_compiled_formulas_take_no_lock(keops, monkeypatch):
    monkeypatch.setenv("KEOPS_CACHE_FOLDER", "/dev/null/nowhere")
    assert keops_backend.reason_against(CPU) is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", [1, 500, 2048])
def test_on_a_gpu(length, dtype):
    reason = keops_backend.reason_against(torch.device("cuda"))
    if reason is not None:
        pytest.skip(reason)
    base = random_base(48, dtype).cuda()
    weight = torch.randn(2, 4, 48, dtype=dtype).cuda()
    values = torch.randn(2, 4, length, dtype=dtype.to_real()).cuda()
    backend, tolerance = keops_backend.BACKEND, TOLERANCE[dtype]

    def product(weight: Tensor, base: Tensor, backend: Backend) -> Tensor:
        return vandermonde(weight, base, length, backend)

    compare(product, [weight, base], backend, tolerance)
    compare(vandermonde_transpose, [values, base], backend, tolerance)


class TestReasons:
    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "pip install 'mads4[keops]'" in str(keops_backend.reason_against(CPU))

    def test_other_devices(self):
        assert "not on mps" in str(keops_backend.reason_against(torch.device("mps")))

    def test_no_compiler_or_unwritable_cache(self, tmp_path):
        """Both in one process, because it takes long to start."""
        (tmp_path / "file").touch()
        cache = tmp_path / "file" / "cache"
        unwritable, no_compiler = answers(start(cache, WITHOUT_COMPILER, EMPTY=str(tmp_path)))
        assert "install g++ or set CXX" in no_compiler
        assert str(cache) in unwritable
        assert "set KEOPS_CACHE_FOLDER" in unwritable

    @pytest.mark.slow
    def test_broken_compiler(self, tmp_path):
        compiler = tmp_path / "compiler"
        compiler.write_text(
            "#!/bin/sh\necho 'x.h: fatal error: Python.h: no such file' >&2\nexit 1"
        )
        compiler.chmod(0o755)
        reason = reason_in_new_process(tmp_path / "cache", CXX=str(compiler))
        assert "fatal error: Python.h" in reason


def start(cache: Path, script: str = SCRIPT, **variables: str) -> subprocess.Popen[str]:
    if importlib.util.find_spec("pykeops") is None:
        pytest.skip("pykeops is not installed")
    environment = {**os.environ, "KEOPS_CACHE_FOLDER": str(cache), **variables}
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def answers(process: subprocess.Popen[str]) -> list[str]:
    """All lines it writes: none of KeOps' own messages may be among them."""
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0
    return output.splitlines()


def reason_in_new_process(cache: Path, **variables: str) -> str:
    (line,) = answers(start(cache, **variables))
    return line


@pytest.mark.slow
def test_jobs_started_together_share_an_empty_cache(keops, tmp_path):
    together = [start(tmp_path) for _ in range(2)]
    assert [answers(process) for process in together] == [["None"], ["None"]]
    assert not list(tmp_path.rglob("*.pkl")), "index files are not written without the lock"


@pytest.mark.slow
def test_what_a_killed_job_left_is_repaired(keops, tmp_path):
    assert reason_in_new_process(tmp_path) == "None"
    (library,) = tmp_path.rglob("*.so")
    library.write_bytes(library.read_bytes()[:100])
    (library.parent / "LoadKeOps_cpp_class_cache.pkl").touch()
    assert reason_in_new_process(tmp_path) == "None"
