"""The Triton kernels compile for a GPU, with or without one: Triton brings its assembler along."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from mads4.kernels.backends.cuda_backend import product_tile, transposed_tile


def compile_kernels() -> dict[str, str]:
    """Compile every kernel as it is launched, for compute capability 9.0, and return its PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mads4.kernels.backends import triton_kernels as kernels

    found = {}
    for number, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
        lengths = (500, 2048, 16_000)
        tiles = [
            *((kernels.vandermonde_kernel, product_tile(x, dtype)) for x in lengths),
            *((kernels.vandermonde_transposed_kernel, transposed_tile(x, dtype)) for x in lengths),
        ]
        for kernel, given in tiles:
            constants = {key: value for key, value in given.items() if key != "num_warps"}
            types = {"log2_modulus": "*fp64", "turns": "*fp64"}
            types |= dict.fromkeys(("sequences", "modes", "length"), "i32")
            types |= dict.fromkeys(constants, "constexpr")
            signature = {a: types.get(a, f"*{number}") for a in kernel.arg_names}
            compiled = triton.compile(
                ASTSource(fn=kernel, signature=signature, constexprs=constants),
                target=GPUTarget("cuda", 90, 32),
                options={"num_warps": given["num_warps"], "enable_fp_fusion": True},
            )
            assert len(compiled.asm["cubin"]) > 0
            found[f"{kernel.__name__} {number} {constants}"] = compiled.asm["ptx"]
    return found


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_compiles_for_a_gpu(tmp_path: Path) -> None:
    if Version(importlib.metadata.version("triton")) < Version("3.3"):
        pytest.skip("Triton's interface for compiling ahead of time was another one before 3.3")
    target = tmp_path / "found.json"
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, __file__, str(target)],
        env={**kept, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(target.read_text())
    assert len(found) == 3 + 2 + 1 + 1
    for name, text in found.items():
        assert ".tf32" not in text
        assert not re.search(r"\b(atom|red)\.", text)
        assert "401921FB54442D18" in text, f"{name}: 2π has lost digits"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(compile_kernels()))
