from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.cases import COMPILED, REFERENCE, Cell, reference_mebibytes, workload
from harness.rows import COLUMNS, Row, to_csv, to_text
from harness.suite import Grid, operator_shares, prepared, product_share

KERNEL = Cell("kernel", "diagonal", "torch", length=12, channels=3, state=4)


def gradients(cell: Cell) -> list[torch.Tensor | None]:
    work = workload(cell)
    assert work.forward_backward is not None
    found = work.forward_backward()
    assert isinstance(found, tuple)
    return list(found)


@pytest.mark.parametrize("parameterization", ["diagonal", "dplr"])
@pytest.mark.parametrize("backend", ["torch", REFERENCE])
def test_a_kernel_is_differentiated_by_all_it_depends_on(
    parameterization: str, backend: str
) -> None:
    cell = replace(KERNEL, parameterization=parameterization, backend=backend, dtype="float64")
    taps = workload(cell).forward()
    assert isinstance(taps, torch.Tensor)
    assert taps.shape == (3, 12)
    assert taps.dtype == torch.float64
    used = [gradient for gradient in gradients(cell) if gradient is not None]
    without_d = int(backend == REFERENCE)
    assert len(used) == (6 if parameterization == "diagonal" else 7) - without_d


@pytest.mark.parametrize("case", ["layer", "block"])
def test_fast_and_plain_sequences_have_the_same_gradients(case: str) -> None:
    cell = replace(KERNEL, case=case, batch=2, dtype="float64")
    sizes = {}
    for backend in ("torch", REFERENCE):
        found = gradients(replace(cell, backend=backend))
        assert all(gradient is not None for gradient in found)
        sizes[backend] = sorted(gradient.numel() for gradient in found if gradient is not None)
    assert sizes["torch"] == sizes[REFERENCE]


@pytest.mark.parametrize("case", ["step layer", "step stack"])
def test_steps_have_no_gradients(case: str) -> None:
    work = workload(replace(KERNEL, case=case, length=1, batch=2))
    assert work.forward_backward is None
    with work.context():
        y, _ = work.forward()  # type: ignore[misc]
    assert y.shape == (2, 3)
    assert y.is_inference()


def test_inputs_are_the_same_at_every_call() -> None:
    first, second = workload(KERNEL).forward(), workload(KERNEL).forward()
    assert isinstance(first, torch.Tensor)
    assert torch.equal(first, second)  # type: ignore[arg-type]


def test_a_prepared_cell_runs() -> None:
    assert isinstance(prepared(KERNEL, "forward_backward")(), tuple)
    with pytest.raises(ValueError, match="no part"):
        prepared(replace(KERNEL, case="step layer"), "forward_backward")


def test_memory_of_plain_formulas_grows_with_their_matrix() -> None:
    needed = reference_mebibytes(Cell("kernel", "dplr", REFERENCE, 16_000, 96, 96))
    assert needed == pytest.approx(6 * 96 * 48 * 16_000 * 8 / 2**20)


def test_the_plain_formula_comes_first_and_has_no_stack() -> None:
    grid = Grid(["dplr"], ["torch", COMPILED, REFERENCE], [1], [1, 2], 4, 4, "float32", "cpu")
    cells = [(cell.case, cell.batch, cell.backend) for cell in grid.cells("step")]
    assert cells[:4] == [
        ("step layer", 1, REFERENCE),
        ("step layer", 1, "torch"),
        ("step layer", 1, COMPILED),
        ("step layer", 2, REFERENCE),
    ]
    assert ("step stack", 1, REFERENCE) not in cells
    assert len(cells) == 10


def test_columns_and_cells_of_the_csv_file() -> None:
    row = Row("kernel", "dplr", "torch", "float32", "cpu", 500, 96, 96, 1, forward_ms=1.23456789)
    header, line = to_csv([row]).splitlines()
    values = dict(zip(header.split(","), line.split(","), strict=True))
    assert tuple(values) == COLUMNS
    assert values["forward_ms"] == "1.23457"
    assert values["forward_backward_ms"] == ""
    assert values["length"] == "500"


def test_a_row_without_times_says_why() -> None:
    row = Row("kernel", "dplr", "cuda", "float32", "cpu", 5, 2, 2, 1, note="cannot run here: why")
    assert to_text(row).endswith("cannot run here: why")


def test_shares_of_operators() -> None:
    left = torch.randn(1024, 1024)  # enough work for a busy machine not to hide it
    shares = operator_shares(lambda: left @ left, torch.device("cpu"))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert product_share(shares) > 0.3
    assert product_share({"aten::mm": 0.3, "aten::_fft_r2c": 0.2, "aten::mul": 0.5}) == 0.5
