"""The findings of `mads4 doctor` as plain text for a terminal of any width, ready to be pasted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

Facts = dict[str, Any]

_NARROWEST, _WIDEST = 48, 100
_NO_FIGURES = 80
"""Terminals narrower than this show of the self-test what passed, without figures."""


def report(facts: Facts, width: int) -> str:
    """Return the findings in sections, the verdict last.

    Args:
        facts: from `mads4.cli.doctor.examine`.
        width: columns of the terminal; between 48 and 100 of them are used.
    """
    width = min(max(width, _NARROWEST), _WIDEST)
    tested = facts["selftest"]
    verdict = "nothing is missing; the self-test was left out"
    if tested is not None:
        names = ", ".join(dict.fromkeys(f"{row['backend']} on {row['device']}" for row in tested))
        verdict = f"nothing is missing, and the kernels compute right: {names}"
    sections = {
        "versions": [*facts["versions"].items(), *_packages(facts)],
        "machine": [*_machine(facts)],
        **{f"kernel backends on {f['device']}": [*_backends(f)] for f in facts["kernels"]},
        "StarCraft (optional)": [
            (part["name"], part["found"] or part["problem"]) for part in facts["starcraft"]
        ],
        "folders": [*_folders(facts["caches"])],
        "notes": [("-", note) for note in facts["notes"]],
        "verdict": [("-", text) for text in facts["problems"] or [verdict]],
    }
    blocks = [_section(name, rows, width) for name, rows in sections.items() if rows]
    if tested is not None:
        blocks.insert(-1, _results(tested, width))
    return "\n\n".join(blocks) + "\n"


def _packages(facts: Facts) -> Iterator[tuple[str, str]]:
    for name, entry in facts["packages"].items():
        shown = entry["version"] or "MISSING"
        yield name, f"{shown}: {entry['problem']}" if entry["problem"] else shown
    for name, entry in facts["optional"].items():
        yield name, entry["version"] or f"not installed ({entry['use']})"


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
    machine = facts["machine"]
    yield "system", machine["platform"]
    yield "processor", machine["processor"]
    yield "cores", f"{machine['usable_cpus']} of {machine['cpu_count']} usable"
    if "torch_threads" in machine:
        yield "threads", f"{machine['torch_threads']} used by PyTorch"
    if facts["cuda"] is not None:
        yield "CUDA", facts["cuda"]
    none = "none found; kernel=keops needs one, such as g++ ($CXX may name it)"
    yield "C++ compiler", facts["compiler"] or none


def _backends(found: Facts) -> Iterator[tuple[str, str]]:
    for name, against in found["against"].items():
        yield name, "available" if against is None else f"not available: {against}"
    yield "auto", f"takes {found['auto']['backend'] or 'none'}: {found['auto']['reason']}"


def _folders(caches: list[Facts]) -> Iterator[tuple[str, str]]:
    for place in caches:
        against = f" NOT WRITABLE: {place['against']}" if place["against"] else ""
        yield place["what"], f"{place['path']}{against} (${place['variable']})"


def _section(heading: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    """Lay out names and texts in two columns; words, thus paths and commands, stay whole."""
    margin = max(len(name) for name, _ in rows) + 2
    lines = [heading]
    for name, text in rows:
        first, later = "  " + name.ljust(margin), "  " + " " * margin
        wrapper = textwrap.TextWrapper(width, first, later, break_on_hyphens=False)
        wrapper.break_long_words = False
        lines += wrapper.wrap(text)
    return "\n".join(lines)


def _results(results: list[Facts], width: int) -> str:
    """Return the self-test as a table."""
    table: list[tuple[str, ...]] = [
        ("backend", "operation", "dtype", "values", "gradients", "ms", "")
    ]
    for row in results:
        errors = (_error(row["value_error"]), _error(row["gradient_error"]))
        passed = "ok" if row["passed"] else "WRONG"
        name, spent = f"{row['backend']}/{row['device']}", f"{row['milliseconds']:.0f}"
        table.append((name, row["operation"], row["dtype"], *errors, spent, passed))
    heading = "self-test: largest relative errors against plain formulas"
    if width < _NO_FIGURES:
        table, heading = [(*row[:3], row[-1]) for row in table], "self-test against plain formulas"
    sizes = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)) for row in table
    ]
    return "\n".join([heading, *(f"  {line}".rstrip() for line in lines)])


def _error(value: float | None) -> str:
    """Return an error with two digits; JSON has null for what is not finite."""
    return "not finite" if value is None else f"{value:.1e}"
