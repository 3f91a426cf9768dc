"""The findings of `mads4 doctor` as text for a terminal of any width; plain, to be pasted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

Facts = dict[str, Any]

_NARROWEST, _WIDEST = 48, 100
_INDENT = 2


def report(facts: Facts, width: int) -> str:
    """Return the findings in sections, the verdict last, where a terminal leaves the eye.

    Args:
        facts: From `mads4.cli.doctor.examine`.
        width: Columns of the terminal; between 48 and 100 of them are used.
    """
    width = min(max(width, _NARROWEST), _WIDEST)
    versions = facts["versions"].items()
    sections = {
        "versions": _pairs([*versions, *_packages(facts)], width),
        "machine": _pairs(_machine(facts), width),
    }
    for found in facts["kernels"]:
        sections[f"kernel backends on {found['device']}"] = _pairs(_backends(found), width)
    sections["StarCraft (optional)"] = _pairs(
        [(part["name"], part["found"] or part["problem"]) for part in facts["starcraft"]], width
    )
    sections["folders"] = _pairs(_folders(facts["caches"]), width)
    if facts["selftest"] is not None:
        heading = "self-test: largest relative errors against plain formulas"
        sections[heading] = _results(facts["selftest"], width)
    if facts["notes"]:
        sections["notes"] = _items(facts["notes"], width)
    sections["verdict"] = _items(facts["problems"] or [_all_well(facts)], width)
    blocks = ["\n".join([*textwrap.wrap(name, width), *body]) for name, body in sections.items()]
    return "\n\n".join(blocks) + "\n"


def _packages(facts: Facts) -> Iterable[tuple[str, str]]:
    for name, entry in facts["packages"].items():
        shown = entry["version"] or "MISSING"
        yield name, f"{shown}: {entry['problem']}" if entry["problem"] else shown
    for name, entry in facts["optional"].items():
        yield name, entry["version"] or f"not installed ({entry['use']})"


def _machine(facts: Facts) -> Iterable[tuple[str, str]]:
    machine, compiler = facts["machine"], facts["compiler"]
    yield "system", machine["platform"]
    if "processor" in machine:
        yield "processor", machine["processor"]
    cores = machine["cpu_count"]
    usable = machine.get("usable_cpus", cores)
    yield "cores", f"{cores}" if usable == cores else f"{cores}, of which {usable} may be used"
    if "torch_threads" in machine:
        yield "threads", f"{machine['torch_threads']} used by PyTorch"
    if facts["cuda"] is not None:
        yield "CUDA", _cuda(facts["cuda"])
    if compiler is None:
        yield "C++ compiler", "none found; kernel=keops needs one, such as g++ ($CXX may name it)"
    else:
        yield "C++ compiler", f"{compiler['path']}: {compiler['version']}"


def _cuda(cuda: Facts) -> str:
    if not cuda["version"]:
        return "none; this PyTorch is built without it"
    devices = [
        f"{device['name']} ({device['memory_gib']} GiB, compute capability {device['capability']})"
        for device in cuda["devices"]
    ]
    return f"{', '.join(devices) or 'no device'}; PyTorch is built for CUDA {cuda['version']}"


def _backends(found: Facts) -> list[tuple[str, str]]:
    rows = [
        (name, "available" if against is None else f"not available: {against}")
        for name, against in found["against"].items()
    ]
    return [
        *rows,
        ("auto", f"takes {found['auto']['backend'] or 'none'}: {found['auto']['reason']}"),
    ]


def _folders(caches: list[Facts]) -> Iterable[tuple[str, str]]:
    for place in caches:
        shown = place["path"] or "not known while packages are missing"
        if place["against"]:
            shown += f" NOT WRITABLE: {place['against']}"
        yield place["what"], f"{shown} (${place['variable']})"


def _results(results: list[Facts], width: int) -> list[str]:
    """Return the self-test as a table; in narrow terminals without what can be missed most."""
    headings = ["backend", "operation", "dtype", "values", "gradients", "allowed", "ms", ""]
    rows = [
        [
            f"{row['backend']}/{row['device']}",
            row["operation"],
            row["dtype"],
            _error(row["value_error"]),
            _error(row["gradient_error"]),
            f"{row['tolerance']:.0e}",
            f"{row['milliseconds']:.0f}",
            "ok" if row["passed"] else "WRONG",
        ]
        for row in results
    ]
    table = [headings, *rows]
    for dispensable in ("ms", "allowed", "gradients", "values"):
        if max(map(len, _table(table))) <= width:
            break
        column = table[0].index(dispensable)
        table = [row[:column] + row[column + 1 :] for row in table]
    return _table(table)


def _error(value: float | None) -> str:
    """Return an error with two digits; what JSON cannot hold arrives as None."""
    if value is None:
        return "not finite"
    return f"{value:.1e}" if value else "0"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out columns: words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = ("backend", "operation", "dtype", "")
    lines = []
    for row in rows:
        cells = [
            cell.ljust(size) if head in words else cell.rjust(size)
            for cell, size, head in zip(row, widths, rows[0], strict=True)
        ]
        lines.append(" " * _INDENT + "  ".join(cells).rstrip())
    return lines


def _pairs(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Lay out names and texts in two columns, the texts folded within theirs."""
    rows = list(rows)
    margin = _INDENT + max((len(name) for name, _ in rows), default=0) + 2
    lines: list[str] = []
    for name, text in rows:
        first = " " * _INDENT + name.ljust(margin - _INDENT)
        lines += _fold(text, width, first, " " * margin)
    return lines


def _items(texts: Sequence[str], width: int) -> list[str]:
    """Lay out sentences, one per paragraph."""
    indent = " " * _INDENT
    return [line for text in texts for line in _fold(text, width, indent, indent + "  ")]


def _fold(text: str, width: int, first: str, later: str) -> list[str]:
    """Fold a text between words only, so that paths and commands stay whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _all_well(facts: Facts) -> str:
    tested = facts["selftest"]
    if tested is None:
        return "nothing is missing; the self-test was left out"
    names = dict.fromkeys(f"{row['backend']} on {row['device']}" for row in tested)
    return f"nothing is missing, and the kernels compute right: {', '.join(names)}"
