"""Tables carry the numbers of the summary."""

from __future__ import annotations

import io

from rich.console import Console

from mads4.evaluation.record import RunRecord
from mads4.report.table import markdown, result_markdown, result_table


def test_console_table(record: RunRecord) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(result_table(record))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in text.splitlines() if "target 29.7" in line)
    for cell in ("16.00", "15.20 - 16.80", "16.50", "0.64", "64"):
        assert cell in row
    assert "± 3.00 (std)" in text and "deliveries per 500-step episode" in text


def test_markdown_table(record: RunRecord) -> None:
    text = result_markdown(record)
    assert text.startswith("**quickstart: RWARE tiny-2ag**")
    assert "| MADS4, target 20 | 14.00 | 13.20 - 15.00 | 14.30 | 0.63 | 64 |\n" in text
    assert "| --- | ---: |" in text


def test_the_caption_says_how_actions_were_chosen(record: RunRecord) -> None:
    assert "500-step episode; score" in result_markdown(record), "older summaries do not say"
    text = result_markdown(record.model_copy(update={"actions": "deterministic"}))
    assert "500-step episode; deterministic actions; score: 0 random, 1 expert" in text


def test_markdown_escapes_bars() -> None:
    assert markdown(["a", "b"], [["x|y", "1"]]).endswith("| x\\|y | 1 |\n")


def test_empty_summary() -> None:
    assert "results" in result_markdown(RunRecord())
    assert result_table(RunRecord()).row_count == 0
