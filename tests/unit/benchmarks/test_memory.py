from __future__ import annotations

from functools import partial

import pytest
import torch
from memory_fakes import allocating, die, fail

from harness import memory

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    memory.reason_against(CPU) is not None, reason=str(memory.reason_against(CPU))
)


@pytest.mark.parametrize("mebibytes", [16, 64])
def test_a_known_allocation_is_measured_though_it_is_freed(mebibytes: int) -> None:
    peak = memory.peak_mebibytes(partial(allocating, 1, mebibytes), CPU, threads=1)
    assert mebibytes <= peak + 1.0
    assert peak < mebibytes + 8.0


def test_what_was_held_before_does_not_count() -> None:
    peak = memory.peak_mebibytes(partial(allocating, 128, 8), CPU, threads=1)
    assert 7.0 < peak < 24.0


def test_an_error_in_the_child_is_raised_here() -> None:
    with pytest.raises(ValueError, match="nothing to prepare"):
        memory.peak_mebibytes(fail, CPU, threads=1)


def test_a_child_that_dies_is_recognized() -> None:
    with pytest.raises(MemoryError, match="killed"):
        memory.peak_mebibytes(die, CPU, threads=1)


def test_systems_without_proc_are_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory._reason_against_cpu.cache_clear()
    assert "darwin" in str(memory.reason_against(CPU))
    monkeypatch.undo()
    memory._reason_against_cpu.cache_clear()
    assert memory.reason_against(torch.device("cuda")) is None
