"""The findings of `mads4 doctor` as plain text for a terminal of any width, ready to be pasted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Facts = dict[str, Any]
Rows = Iterable[tuple[str, str]]

_NARROWEST, _WIDEST = 48, 100
_INDENT = "  "


def report(facts: Facts, width: int) -> str:
    """Return the findings in sections, the verdict last.

    Args:
        facts: from `mads4.cli.doctor.examine`.
        width: columns of the terminal; between 48 and 100 of them are used.
    """
    width = min(max(width, _NARROWEST), _WIDEST)
    sections = {
        "versions": _pairs([*facts["versions"].items(), *_packages(facts)], width),
        "machine": _pairs(_machine(facts), width),
    }
    for found in facts["kernels"]:
        sections[f"kernel backends on {found['device']}"] = _pairs(_backends(found), width)
    parts = [(part["name"], part["found"] or part["problem"]) for part in facts["starcraft"]]
    sections["StarCraft (optional)"] = _pairs(parts, width)
    sections["folders"] = _pairs(_folders(facts["caches"]), width)
    tested = facts["selftest"]
    if tested is not None:
        heading = "self-test: largest relative errors against plain formulas"
        sections[heading] = _results(tested, width)
    if facts["notes"]:
        sections["notes"] = _items(facts["notes"], width)
    verdict = "nothing is missing; the self-test was left out"
    if tested is not None:
        names = ", ".join(dict.fromkeys(f"{row['backend']} on {row['device']}" for row in tested))
        verdict = f"nothing is missing, and the kernels compute right: {names}"
    sections["verdict"] = _items(facts["problems"] or [verdict], width)
    blocks = ["\n".join([*textwrap.wrap(name, width), *body]) for name, body in sections.items()]
    return "\n\n".join(blocks) + "\n"


def _packages(facts: Facts) -> Iterator[tuple[str, str]]:
    for name, entry in facts["packages"].items():
        shown = entry["version"] or "MISSING"
        yield name, f"{shown}: {entry['problem']}" if entry["problem"] else shown
    for name, entry in facts["optional"].items():
        yield name, entry["version"] or f"not installed ({entry['use']})"


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
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


def _backends(found: Facts) -> Iterator[tuple[str, str]]:
    for name, against in found["against"].items():
        yield name, "available" if against is None else f"not available: {against}"
    yield "auto", f"takes {found['auto']['backend'] or 'none'}: {found['auto']['reason']}"


def _folders(caches: list[Facts]) -> Iterator[tuple[str, str]]:
    for place in caches:
        shown = place["path"] or "not known while packages are missing"
        if place["against"]:
            shown += f" NOT WRITABLE: {place['against']}"
        yield place["what"], f"{shown} (${place['variable']})"


def _results(results: list[Facts], width: int) -> list[str]:
    """Return the self-test as a table; narrow terminals lose the least important columns."""
    columns: dict[str, list[str]] = {
        "backend": [f"{row['backend']}/{row['device']}" for row in results],
        "operation": [row["operation"] for row in results],
        "dtype": [row["dtype"] for row in results],
        "values": [_error(row["value_error"]) for row in results],
        "gradients": [_error(row["gradient_error"]) for row in results],
        "allowed": [f"{row['tolerance']:.0e}" for row in results],
        "ms": [f"{row['milliseconds']:.0f}" for row in results],
        "": ["ok" if row["passed"] else "WRONG" for row in results],
    }
    figures = ("ms", "allowed", "gradients", "values")
    for dispensable in (*figures, None):
        aligned = []
        for name, cells in columns.items():
            size = max(map(len, (name, *cells)))
            align = str.rjust if name in figures else str.ljust
            aligned.append([align(cell, size) for cell in (name, *cells)])
        lines = [_INDENT + "  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]
        if dispensable is None or max(map(len, lines)) <= width:
            break
        del columns[dispensable]
    return lines


def _error(value: float | None) -> str:
    """Return an error with two digits; JSON has null for what is not finite."""
    if value is None:
        return "not finite"
    return f"{value:.1e}" if value else "0"


def _pairs(rows: Rows, width: int) -> list[str]:
    """Lay out names and texts in two columns, the texts wrapped within theirs."""
    rows = list(rows)
    margin = max((len(name) for name, _ in rows), default=0) + 2
    return [
        line
        for name, text in rows
        for line in _fold(text, width, _INDENT + name.ljust(margin), _INDENT + " " * margin)
    ]


def _items(texts: Sequence[str], width: int) -> list[str]:
    """Lay out sentences, one per paragraph."""
    return [line for text in texts for line in _fold(text, width, _INDENT, 2 * _INDENT)]


def _fold(text: str, width: int, first: str, later: str) -> list[str]:
    """Wrap a text between words only, so that paths and commands stay whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
