"""The result of a run as a table: in color for the console, in Markdown for documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mads4.evaluation.record import Figures, Result, RunRecord

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = ("policy", "return", "95% interval", "IQM", "score", "won", "episodes")
_WON = _HEADINGS.index("won")
_STYLES = {
    "random": "dim",
    "data": "cyan",
    "policy": "bold blue",
    "extra": "magenta",
    "expert": "green",
}


def result_table(record: RunRecord, extra: Mapping[str, Figures] | None = None) -> Table:
    """Return a `rich` table of all results; `extra` as in `result_picture`."""
    from rich.table import Table

    table = Table(title=_title(record), caption=_caption(record), caption_style="dim")
    results = record.results(extra)
    headings, *rows = _columns(results)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for result, row in zip(results, rows, strict=True):
        table.add_row(*row, style=_STYLES[result.kind])
    return table


def result_markdown(record: RunRecord, extra: Mapping[str, Figures] | None = None) -> str:
    """Return the same table in Markdown, with its title above and its caption below."""
    headings, *rows = _columns(record.results(extra))
    return f"**{_title(record)}**\n\n{markdown(headings, rows)}\n{_caption(record)}\n"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is left-aligned and the others right-aligned."""
    lines = [list(headings), ["---"] + ["---:"] * (len(headings) - 1)]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def interval(low: float | None, high: float | None) -> str:
    """Return ``low - high`` with two digits after the point, or an empty string."""
    return "" if low is None or high is None else f"{low:.2f} - {high:.2f}"


def _columns(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return headings and rows of cells, without the column of wins where there are none."""
    rows = [_HEADINGS, *map(_cells, results)]
    if any(result.win_rate is not None for result in results):
        return rows
    return [row[:_WON] + row[_WON + 1 :] for row in rows]


def _cells(result: Result) -> tuple[str, ...]:
    """Return a result's cells in the order of the headings, empty where not known."""
    spread = interval(result.low, result.high)
    if result.kind == "data" and result.high is not None:
        spread = f"± {result.high - result.mean:.2f} (std)"
    return (
        result.label,
        f"{result.mean:.2f}",
        spread,
        "" if result.iqm is None else f"{result.iqm:.2f}",
        "" if result.score is None else f"{result.score:.2f}",
        "" if result.win_rate is None else f"{result.win_rate:.0%}",
        "" if result.episodes is None else str(result.episodes),
    )


def _title(record: RunRecord) -> str:
    """Return the run's name and scenario."""
    words = (record.name, record.env.title)
    return ": ".join(word for word in words if word) or "results"


def _caption(record: RunRecord) -> str:
    """Return what a return counts, how actions were chosen and what the score means."""
    actions = [f"{record.actions} actions"] if record.actions else []
    return "; ".join([f"return: {record.unit}", *actions, "score: 0 random, 1 expert"])
