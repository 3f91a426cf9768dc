from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The scripts and their package `harness`, as when a script is run; and `memory_fakes`, a module
# that measuring processes import, too.
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "benchmarks")]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a benchmark script in an empty folder and return its exit code."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, *words: str) -> int:
        try:
            code: int = importlib.import_module(script).main(words)
        except SystemExit as end:
            assert isinstance(end.code, int)
            return end.code
        return code

    return call
