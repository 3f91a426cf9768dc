"""One row of results, as CSV and as aligned text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from mads4.io import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Row:
    """The measurements of one cell; None where there is none, with the reason in `note`.

    Times in milliseconds, memory in MiB above that held before. The field names are the columns
    of the CSV file. ``forward_backward`` includes the forward pass.
    """

    case: str
    parameterization: str
    backend: str
    dtype: str
    device: str
    length: int
    channels: int
    state: int
    batch: int
    forward_ms: float | None = None
    """Median."""
    forward_ms_min: float | None = None
    forward_ms_p10: float | None = None
    forward_ms_p90: float | None = None
    forward_runs: int | None = None
    forward_mib: float | None = None
    forward_times_faster: float | None = None
    """The plain formula's median over this one's."""
    forward_in_products: float | None = None
    """Median over the control's."""
    forward_backward_ms: float | None = None
    forward_backward_ms_min: float | None = None
    forward_backward_ms_p10: float | None = None
    forward_backward_ms_p90: float | None = None
    forward_backward_runs: int | None = None
    forward_backward_mib: float | None = None
    forward_backward_times_faster: float | None = None
    forward_backward_in_products: float | None = None
    fft_and_product_share: float | None = None
    """Share of the forward and backward pass in Fourier transforms and matrix products, 0 to 1."""
    control_ms: float | None = None
    """Median of the control's runs beside this cell's."""
    control_gflops: float | None = None
    note: str = ""


COLUMNS = tuple(field.name for field in fields(Row))

_DIGITS = 6


def to_csv(rows: Sequence[DataclassInstance]) -> str:
    """Return rows of one kind, at least one, under a line of their fields' names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in fields(rows[0])]
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_csv_cell(getattr(row, name)) for name in columns])
    return text.getvalue()


def write_csv(rows: Sequence[DataclassInstance], path: Path) -> None:
    """Write the rows to `path`, atomically."""
    write_text(path, to_csv(rows))


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


_WIDTHS = (10, 8, 9, 6, 5, 9, 17, 7, 9, 17, 7, 12, 13, 5)
_HEADINGS = (
    *("case", "system", "backend", "L", "B"),
    *("forward", "(p10 - p90)", "MiB", "fwd+bwd", "(p10 - p90)", "MiB"),
    *("times faster", "in products", "FFT+P"),
)
_LEFT = 3
"""Columns of words; the numbers that follow are aligned on the right."""


def headings() -> str:
    """Return the line above the text rows."""
    return aligned(_HEADINGS, _WIDTHS, _LEFT)


def to_text(row: Row) -> str:
    """Return a row as one line: medians in milliseconds, and pairs for forward / fwd+bwd."""
    start = (row.case, row.parameterization, row.backend, str(row.length), str(row.batch))
    if row.forward_ms is None:
        return f"{aligned(start, _WIDTHS, _LEFT)}  {row.note}"
    share = row.fft_and_product_share
    cells = (
        *start,
        *_measured(row, "forward"),
        *_measured(row, "forward_backward"),
        _pair(row.forward_times_faster, row.forward_backward_times_faster),
        _pair(row.forward_in_products, row.forward_backward_in_products),
        "" if share is None else f"{share:.0%}",
    )
    return f"{aligned(cells, _WIDTHS, _LEFT)}  {row.note}".rstrip()


def aligned(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    """Return a line of a table: the first `left` cells on the left, the others on the right."""
    parts = [
        cell.ljust(width) if index < left else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=False))
    ]
    return " ".join(parts)


def _measured(row: Row, part: str) -> tuple[str, str, str]:
    low, high = getattr(row, f"{part}_ms_p10"), getattr(row, f"{part}_ms_p90")
    spread = "" if low is None else f"({short(low)} - {short(high)})"
    return short(getattr(row, f"{part}_ms")), spread, short(getattr(row, f"{part}_mib"))


def _pair(first: float | None, second: float | None) -> str:
    return " / ".join(short(value) for value in (first, second) if value is not None)


def short(value: float | None) -> str:
    """Return a number with three digits that count, or nothing for None."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
