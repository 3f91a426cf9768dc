"""`mads4 data list` and `mads4 data download`."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from mads4.data import registry
from mads4.data.download import fetch
from mads4.data.files import data_directory
from mads4.data.store import read_header
from mads4.errors import UserError
from mads4.logging import progress_bar

MEBIBYTE = 1 << 20
WIDE = 130
"""Columns of a terminal from which all of the table fits."""
PIPE_WIDTH = 200
"""Columns where the output goes to a file or another program."""
_COLUMNS = (
    *("name", "environment", "scenario", "quality", "format"),
    *("episodes", "size", "return", "license", "source", "here"),
)
_PART_OF_THE_NAME = ("environment", "scenario", "quality", "format")


def list_sets(args: argparse.Namespace) -> None:
    """Show published data sets, and the files that were recorded or converted here."""
    rows = [_of_entry(entry) for entry in registry.entries()] + _local()
    for key in ("env", "scenario", "quality", "format"):
        wanted = getattr(args, key)
        rows = [row for row in rows if wanted is None or _same(row[key], wanted)]
    if args.here:
        rows = [row for row in rows if row["here"]]
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    if not rows:
        raise UserError("No data set matches these filters; `mads4 data list` shows all.")
    _print(rows)


def download(args: argparse.Namespace) -> None:
    """Download and unpack a published data set."""
    entry = registry.find(args.name)
    total = None if entry.bytes is None else _mebibytes(entry.bytes)
    with progress_bar("MiB", total, not args.quiet) as advance:

        def report(done: int, size: int | None) -> None:
            advance(_mebibytes(done), "" if size is None else f"of {_mebibytes(size)} MiB")

        place = fetch(entry, report)
    sys.stdout.write(
        f"{entry.name} is at {place}\ninspect: mads4 data show {entry.name}\n"
        f"train:   mads4 train dataset={entry.format} dataset.path={entry.name}\n"
    )


def _of_entry(entry: registry.Entry) -> dict[str, Any]:
    """Return a row on a published data set, as JSON values."""
    return entry.to_dict() | {"source": _source(entry)}


def _source(entry: registry.Entry) -> str:
    hosts = [urllib.parse.urlsplit(address).hostname or "" for address in entry.addresses]
    return ", ".join(dict.fromkeys(hosts)) or "by hand"


def _local() -> list[dict[str, Any]]:
    """Return rows on the data set files below the data directory; warn of damaged ones."""
    folder = data_directory()
    rows = []
    for kind, pattern in (("recorded", "*.h5"), ("converted", "converted/*.h5")):
        for path in sorted(folder.glob(pattern)):
            try:
                facts = read_header(path).summary()
            except UserError as error:
                sys.stderr.write(f"warning: {error}\n")
                continue
            rows.append(_of_file(path, kind, facts))
    return rows


def _of_file(path: Path, kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    behavior = facts["behavior"]
    return {
        "name": str(path),
        "env": facts["env"],
        "scenario": facts["scenario"],
        "quality": str(behavior.get("quality") or ""),
        "format": "hdf5",
        "episodes": facts["episodes"],
        "bytes": path.stat().st_size,
        "return_mean": facts["return_mean"],
        "license": str(behavior.get("license") or ""),
        "source": kind,
        "fingerprint": facts["fingerprint"],
        "here": True,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    """Print a table without empty columns and, if narrow, without those that the name contains."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    cells = [_cells(row) for row in rows]
    wide = console.width >= WIDE
    columns = [name for name in _COLUMNS if any(row[name] for row in cells)]
    columns = [name for name in columns if wide or name not in _PART_OF_THE_NAME]
    table = Table(
        box=None, pad_edge=False, header_style="bold", padding=(0, 2 if wide else 1, 0, 0)
    )
    for name in columns:
        right = name in ("episodes", "size", "return")
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=name != "name",
            overflow="fold",
        )
    for row in cells:
        table.add_row(*(row[name] for name in columns))
    console.print(table)
    sys.stdout.write(
        f"\n{len(rows)} data sets; empty: unknown. Data directory: {data_directory()}\n"
    )


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Return a row's text by column."""
    episodes, size, mean = row["episodes"], row["bytes"], row["return_mean"]
    return {
        "name": _short(row["name"]),
        "environment": row["env"],
        **{key: row[key] for key in ("scenario", "quality", "format", "license", "source")},
        "episodes": "" if episodes is None else str(episodes),
        "size": "" if size is None else _size(size),
        "return": "" if mean is None else f"{mean:.2f}",
        "here": "yes" if row["here"] else "no",
    }


def _short(name: str) -> str:
    """Return a file's name relative to the data directory."""
    path = Path(name)
    return str(path.relative_to(data_directory())) if path.is_absolute() else name


def _size(size: int) -> str:
    return f"{size / MEBIBYTE:.1f} MiB" if size >= MEBIBYTE else f"{size / 1024:.0f} KiB"


def _same(value: object, wanted: str) -> bool:
    return str(value).lower() == wanted.lower()


def _mebibytes(size: int) -> int:
    return -(-size // MEBIBYTE)
