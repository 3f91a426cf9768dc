"""`mads4 data show`, `verify` and `plot`: contents and integrity of a data set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mads4.cli.data_open import Selected, open_selected
from mads4.data.content import MisfitError, step_columns
from mads4.data.convert import skipped_summary
from mads4.data.dataset import DatasetHeader, EpisodeRow, EpisodeTable
from mads4.data.download import check_file
from mads4.data.files import describe
from mads4.data.store import read_header
from mads4.errors import UserError
from mads4.io import json_safe
from mads4.logging import progress_bar
from mads4.types import Episode

UNKNOWN_WITHOUT_NAMES = ("env", "scenario", "state_encoding", "reward_definition")
"""Fields left out if neither the format nor the command line gives them."""


def show(args: argparse.Namespace) -> None:
    """Show sizes, returns and origin."""
    selected = open_selected(args)
    facts: dict[str, Any] = json_safe(_header(selected).summary())
    if selected.format != "hdf5":
        facts = {
            key: value
            for key, value in facts.items()
            if key != "fingerprint" and (value or key not in UNKNOWN_WITHOUT_NAMES)
        }
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        _print_table(selected.path, facts)


def verify(args: argparse.Namespace) -> None:
    """Read and check everything; raise `UserError` at the first fault."""
    selected = open_selected(args)
    if selected.entry is not None and selected.entry.archive.exists():
        check_file(selected.entry.archive, selected.entry.sha256)
        sys.stdout.write(f"{selected.entry.archive}: SHA-256 as recorded\n")
    count = steps = 0
    for episode in _read(selected, "checking", not args.quiet):
        count, steps = count + 1, steps + episode.length
    sys.stdout.write(f"{selected.path}: sound, {count} episodes, {steps} steps\n")
    if selected.format == "hdf5":
        fingerprint = read_header(selected.path).fingerprint
        sys.stdout.write(f"content matches the fingerprint {fingerprint}\n")
    skipped = skipped_summary(selected.source.skipped)
    for reason, number in skipped["reasons"].items():
        sys.stdout.write(f"left out: {number} episodes: {reason}\n")
    if args.against is not None:
        _compare(selected, args.against.expanduser())


def plot(args: argparse.Namespace) -> None:
    """Draw the data set."""
    import numpy as np

    from mads4.report.data_picture import DataFacts, data_picture

    if args.out is not None and args.out.suffix.lower() != ".png":
        raise UserError(f"{args.out}: the picture is a PNG. Give a name that ends in .png.")
    selected = open_selected(args)
    spec = selected.source.spec
    counts = np.zeros((spec.n_agents, spec.n_actions), np.int64)
    rows = []
    for episode in _read(selected, "reading", not args.quiet):
        rows.append(EpisodeRow.of(episode))
        for agent in range(spec.n_agents):
            counts[agent] += np.bincount(episode.action[:, agent], minlength=spec.n_actions)
    table = EpisodeTable.from_episodes(rows)
    name = selected.entry.name if selected.entry else selected.source.name
    out = args.out or Path(f"{name.replace('/', '_')}.png")
    facts = DataFacts(
        title=name,
        place=" ".join(word for word in (spec.name, spec.scenario) if word),
        reward=spec.reward,
        returns=table.episode_return,
        lengths=table.length,
        episode_limit=spec.episode_limit,
        action_counts=counts,
    )
    try:
        data_picture(facts, out.expanduser())
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error}. Give another name for the PNG.") from error
    sys.stdout.write(f"picture: {out}\n")


def _header(selected: Selected) -> DatasetHeader:
    """Return the header of a data set; formats without one are read to their end."""
    if selected.format == "hdf5":
        return read_header(selected.path)
    source = selected.source
    rows = [EpisodeRow.of(episode) for episode in _read(selected, "reading", True)]
    origin = {**source.origin, **selected.about, "skipped": skipped_summary(source.skipped)}
    table = EpisodeTable.from_episodes(rows)
    return DatasetHeader(source.name, source.spec, origin, "", table)


def _read(selected: Selected, what: str, progress: bool) -> Iterator[Episode]:
    """Yield the episodes, checked, with a progress bar.

    Raises:
        UserError: an invalid episode, or none at all.
    """
    total = len(read_header(selected.path)) if selected.format == "hdf5" else None
    spec, done = selected.source.spec, 0
    with progress_bar(what, total, progress) as advance:
        for done, episode in enumerate(selected.source.episodes(), 1):
            try:
                step_columns(spec, episode, done - 1)
            except MisfitError as error:
                raise UserError(f"{selected.path}: {error}") from error
            yield episode
            advance(done, "episodes")
    if not done:
        raise UserError(f"{selected.path} holds no episode.")


def _compare(selected: Selected, given: Path) -> None:
    """Compare the files that a conversion was made from with those at a place."""
    made_from: dict[str, Any] = {}
    if selected.format == "hdf5":
        made_from = read_header(selected.path).behavior.get("source") or {}
    if not made_from:
        raise UserError(f"{selected.path} does not say what files it was converted from.")
    found = describe(_files(given, made_from))
    if found["sha256"] != made_from["sha256"]:
        wrong = _differences(made_from, found)
        raise UserError(
            f"{given} does not hold the files that {selected.path} was converted from: {wrong}."
        )
    sys.stdout.write(f"{given}: the {found['count']} files that it was converted from\n")


def _files(given: Path, made_from: dict[str, Any]) -> list[Path]:
    """Return the files to compare: those named, where they are named, else all below a folder."""
    if not given.exists():
        raise UserError(f"--against: there is no file or folder {given}.")
    if given.is_file():
        return [given]
    named = [given / row["name"] for row in made_from.get("files", [])]
    files = named or sorted(path for path in given.rglob("*") if path.is_file())
    missing = [path for path in files if not path.is_file()]
    if missing or not files:
        raise UserError(f"{given} lacks {missing[0].name if missing else 'any file'}.")
    return files


def _differences(made_from: dict[str, Any], found: dict[str, Any]) -> str:
    """Return a description of the files that differ."""
    before, now = (
        {row["name"]: row["sha256"] for row in about.get("files", [])}
        for about in (made_from, found)
    )
    changed = sorted(name for name in before if now.get(name) != before[name])
    if changed:
        return f"{', '.join(changed)} changed"
    return (
        f"{made_from['count']} files of {made_from['bytes']} bytes then, "
        f"{found['count']} of {found['bytes']} bytes now"
    )


def _print_table(path: Path, facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(path), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in facts.items():
        if isinstance(value, dict):
            for name, one in value.items():
                table.add_row(f"{key}.{name}", _in_short(one))
        else:
            table.add_row(key, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


def _in_short(value: Any) -> str:
    """Return a part of the origin on a line or two; --json has all of it."""
    if isinstance(value, dict) and "sha256" in value:
        return f"{value['count']} files, {value['bytes']} bytes, SHA-256 {value['sha256']}"
    if isinstance(value, dict) and "reasons" in value:
        reasons = "; ".join(f"{why} ({n})" for why, n in value["reasons"].items())
        return f"{value['episodes']} episodes" + (f": {reasons}" if reasons else "")
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return "\n".join(f"{one.get('name')}: {one.get('fingerprint', '')}" for one in value)
    return value if isinstance(value, str) else json.dumps(value)
