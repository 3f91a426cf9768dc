"""`mads4 data show PATH`: what is in a data set file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 data` and return its exit code."""
    parser = argparse.ArgumentParser(prog=f"mads4 {command}", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    show = actions.add_parser("show", help="sizes, returns and origin of a data set")
    show.add_argument("path", type=Path, metavar="PATH", help="file written by `mads4 collect`")
    show.add_argument("--json", action="store_true", help="machine-readable output")
    args = parser.parse_args(argv)

    from mads4.atomic import json_safe
    from mads4.data.store import read_header

    facts = json_safe(read_header(args.path).summary())
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        _print_table(args.path, facts)
    return 0


def _print_table(path: Path, facts: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(path), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in facts.items():
        shown = f"{value:.3f}" if isinstance(value, float) else value
        table.add_row(key, json.dumps(shown) if isinstance(shown, dict) else str(shown))
    Console().print(table)
