"""`mads4 data list` and `mads4 data download`."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from mads4.data import registry
from mads4.data.directory import data_directory
from mads4.data.fetch import fetch
from mads4.data.store import read_header
from mads4.errors import UserError
from mads4.progress import progress_bar

MEBIBYTE = 1 << 20
_COLUMNS = (
    *("name", "environment", "scenario", "quality", "format"),
    *("episodes", "size", "mean return", "licence", "source", "here"),
)


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
        raise UserError("No data set answers to that; `mads4 data list` shows all.")
    _print(rows)


def download(args: argparse.Namespace) -> None:
    """Download and unpack a published data set."""
    entry = registry.find(args.name)
    total = None if entry.bytes is None else _mebibytes(entry.bytes)
    with progress_bar("MiB", total, not args.quiet) as advance:

        def tell(done: int, size: int | None) -> None:
            advance(_mebibytes(done), "" if size is None else f"of {_mebibytes(size)} MiB")

        place = fetch(entry, tell)
    sys.stdout.write(
        f"{entry.name} is at {place}\nlook at it: mads4 data show {entry.name}\n"
        f"train on it: mads4 train dataset={entry.format} dataset.path={entry.name}\n"
    )


def _of_entry(entry: registry.Entry) -> dict[str, Any]:
    """Return a row on a published data set, as JSON values."""
    return entry.to_dict() | {"source": _source(entry)}


def _source(entry: registry.Entry) -> str:
    hosts = [urllib.parse.urlsplit(address).hostname or "" for address in entry.addresses]
    return ", ".join(dict.fromkeys(hosts)) or "by hand"


def _local() -> list[dict[str, Any]]:
    """Return rows on the data set files below the data directory; damaged ones are told."""
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
    behaviour = facts["behaviour"]
    return {
        "name": str(path),
        "env": facts["env"],
        "scenario": facts["scenario"],
        "quality": str(behaviour.get("quality") or ""),
        "format": "hdf5",
        "episodes": facts["episodes"],
        "bytes": path.stat().st_size,
        "return_mean": facts["return_mean"],
        "licence": str(behaviour.get("licence") or ""),
        "source": kind,
        "fingerprint": facts["fingerprint"],
        "here": True,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        right = column in ("episodes", "size", "mean return")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            _short(row["name"]),
            *(row[key] for key in ("env", "scenario", "quality", "format")),
            *("" if row[key] is None else text(row[key]) for key, text in _NUMBERS),
            *(row["licence"], row["source"], "yes" if row["here"] else ""),
        )
    Console().print(table)
    sys.stdout.write(
        f"\n{len(rows)} data sets; empty: not known. Data directory: {data_directory()}\n"
    )


_NUMBERS = (
    ("episodes", str),
    ("bytes", lambda size: f"{size / MEBIBYTE:.1f} MiB"),
    ("return_mean", lambda mean: f"{mean:.2f}"),
)


def _short(name: str) -> str:
    """Return a file's name relative to the data directory."""
    path = Path(name)
    return str(path.relative_to(data_directory())) if path.is_absolute() else name


def _same(value: object, wanted: str) -> bool:
    return str(value).lower() == wanted.lower()


def _mebibytes(size: int) -> int:
    return -(-size // MEBIBYTE)
