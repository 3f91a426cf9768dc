"""The result of a run as a table: in color for the console, in Markdown for documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mads4.report import summary as read

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = ("who", "return", "95% interval", "IQM", "score", "won", "episodes")
_WON = _HEADINGS.index("won")
_STYLES = {
    "random": "dim",
    "data": "cyan",
    "policy": "bold blue",
    "extra": "magenta",
    "expert": "green",
}


def result_table(
    summary: Mapping[str, Any], extra: Mapping[str, Mapping[str, Any]] | None = None
) -> Table:
    """Return a `rich` table of everybody's results; `extra` as in `result_picture`."""
    from rich.table import Table

    table = Table(title=_title(summary), caption=_caption(summary), caption_style="dim")
    results = read.results(summary, extra)
    headings, *rows = _columns(results)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for result, row in zip(results, rows, strict=True):
        table.add_row(*row, style=_STYLES[result.kind])
    return table


def result_markdown(
    summary: Mapping[str, Any], extra: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Return the same table in Markdown, with its title above and its caption below."""
    headings, *rows = _columns(read.results(summary, extra))
    return f"**{_title(summary)}**\n\n{markdown(headings, rows)}\n{_caption(summary)}\n"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is left-aligned and the others right-aligned."""
    lines = [list(headings), ["---"] + ["---:"] * (len(headings) - 1)]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def interval(low: float | None, high: float | None) -> str:
    """Return ``low - high`` with two digits after the point, or an empty string."""
    return "" if low is None or high is None else f"{low:.2f} - {high:.2f}"


def _columns(results: Sequence[read.Result]) -> list[tuple[str, ...]]:
    """Return the headings and everybody's cells, less the column of wins where nothing is won."""
    rows = [_HEADINGS, *map(_cells, results)]
    if any(result.win_rate is not None for result in results):
        return rows
    return [row[:_WON] + row[_WON + 1 :] for row in rows]


def _cells(result: read.Result) -> tuple[str, ...]:
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


def _title(summary: Mapping[str, Any]) -> str:
    """Return the run's name and scenario."""
    words = (str(summary.get("name") or ""), read.scenario(summary))
    return ": ".join(word for word in words if word) or "results"


def _caption(summary: Mapping[str, Any]) -> str:
    """Return what a return counts, how actions were chosen and what the score means."""
    actions = summary.get("actions")
    words = [f"return: {read.unit(summary)}", "score: 0 random, 1 expert"]
    return "; ".join(words[:1] + ([f"{actions} actions"] if actions else []) + words[1:])
