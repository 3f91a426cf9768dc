"""`mads4 data show PATH`: what is in a data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

NAMED_BY_ENVIRONMENT = (
    *("env", "scenario", "state_encoding", "reward_definition"),
    "fingerprint",  # names the environment, too
)
"""Facts that a folder of plain arrays does not hold."""


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 data` and return its exit code."""
    parser = argparse.ArgumentParser(prog=f"mads4 {command}", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    show = actions.add_parser("show", help="sizes, returns and origin of a data set")
    show.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="file written by `mads4 collect`, or folder in AlberDICE's layout",
    )
    show.add_argument("--json", action="store_true", help="machine-readable output")
    args = parser.parse_args(argv)

    from mads4.atomic import json_safe

    facts = json_safe(_facts(args.path))
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        _print_table(args.path, facts)
    return 0


def _facts(path: Path) -> dict[str, Any]:
    """Return a data set's summary, without what only its environment could tell."""
    if not path.is_dir():
        from mads4.data.store import read_header

        return read_header(path).summary()
    from mads4.data.dataset import Dataset
    from mads4.data.formats.alberdice import open_alberdice

    recording = open_alberdice(path)
    facts = Dataset.from_episodes(
        recording.spec, recording.episodes(), recording.origin, recording.name
    ).summary()
    return {key: value for key, value in facts.items() if key not in NAMED_BY_ENVIRONMENT}


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
