"""`mads4 data convert`, `merge`, `split` and `filter`: new data sets from existing ones."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path

from mads4.cli.data_open import Selected, open_selected
from mads4.data import edit
from mads4.data.convert import convert as write_converted
from mads4.data.dataset import DatasetHeader
from mads4.data.files import locked
from mads4.data.formats import Source, formats, looks_like
from mads4.errors import UserError, did_you_mean
from mads4.logging import Advance, progress_bar
from mads4.types import Episode


def convert(args: argparse.Namespace) -> None:
    """Write a data set in another format."""
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit: got {args.limit}, expected a whole number >= 1.")
    if args.name and args.to != "hdf5":
        raise UserError(f"--name: the format {args.to} does not store a name; leave it out.")
    _require_writable(args.to)
    target = args.target.expanduser()
    selected = open_selected(args)
    if selected.format == "madt" and target.resolve().parent == selected.path.resolve():
        raise UserError(
            f"Every file in {selected.path} counts as an episode. Write {target.name} elsewhere."
        )
    if args.to == "hdf5":
        _write(selected.source, target, args, selected)
        return
    wrote = _export(selected, target, args)
    sys.stdout.write(f"{wrote}: written in the format {args.to}\n")


def _require_writable(data_format: str) -> None:
    names = [name for name, known in formats().items() if known.write or name == "hdf5"]
    if data_format not in names:
        raise UserError(
            f"--to: got '{data_format}', allowed are {', '.join(names)}."
            f"{did_you_mean(data_format, names)}"
        )


def merge(args: argparse.Namespace) -> None:
    """Join data set files."""
    parents = [edit.open_stored(path) for path in args.sources]
    _write(edit.merge(parents), args.target.expanduser(), args)


def split(args: argparse.Namespace) -> None:
    """Divide a data set file."""
    parts = _parts(args.parts)
    if len(parts) != len(args.targets):
        raise UserError(
            f"--parts has {len(parts)} sizes ({args.parts}) for {len(args.targets)} files. "
            "Give a file for each part."
        )
    targets = [path.expanduser() for path in args.targets]
    if len(set(targets)) < len(targets):
        raise UserError("split: two parts would go to one file. Give each its own.")
    source = edit.open_stored(args.source)
    divided = edit.divided(len(source.header), parts, args.seed)
    for target in targets:
        _require_free(target, args)
    for number, (episodes, target) in enumerate(zip(divided, targets, strict=True)):
        operation = {"name": "split", "parts": parts, "seed": args.seed, "part": number}
        _write(edit.keep(source, episodes, operation), target, args)


def filter_episodes(args: argparse.Namespace) -> None:
    """Keep some episodes of a data set file."""
    names = ("min_return", "max_return", "min_length", "max_length", "best", "pct_traj")
    rules = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not rules:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise UserError(f"filter: select the episodes to keep with one or more of {options}.")
    source = edit.open_stored(args.source)
    episodes = edit.chosen(source.header.table, **rules)
    if not len(episodes):
        table = source.header.table
        raise UserError(
            f"No episode of {source.path} matches: returns go from "
            f"{table.episode_return.min():g} to {table.episode_return.max():g}, lengths from "
            f"{table.length.min()} to {table.length.max()} steps."
        )
    kept = edit.keep(source, episodes, {"name": "filter", **rules})
    _write(kept, args.target.expanduser(), args)


def _write(
    source: Source, target: Path, args: argparse.Namespace, selected: Selected | None = None
) -> None:
    """Write a data set file and print a summary."""
    limit = getattr(args, "limit", None)
    total = limit if selected else _length(source)
    with _exclusive(target), progress_bar("writing", total, not args.quiet) as advance:
        _require_free(target, args)
        header = write_converted(
            source,
            target,
            limit=limit,
            name=getattr(args, "name", "") or (source.name if selected else target.stem),
            about=selected.about if selected else None,
            on_progress=advance,
        )
    _report(header, target)


def _length(source: Source) -> int | None:
    return len(source) if isinstance(source, edit.Edited) else None


def _report(header: DatasetHeader, target: Path) -> None:
    """Print what was written and what was left out."""
    facts = header.summary()
    sys.stdout.write(
        f"{target}: {facts['episodes']} episodes, {facts['steps']} steps, mean return "
        f"{facts['return_mean']:.3f}\nfingerprint: {facts['fingerprint']}\n"
    )
    for reason, number in header.behavior["skipped"]["reasons"].items():
        sys.stdout.write(f"left out: {number} episodes: {reason}\n")


def _export(selected: Selected, target: Path, args: argparse.Namespace) -> Path:
    """Write a folder in another project's layout; return it."""
    options: dict[str, str] = {}
    place = target
    if args.to == "og_marl":
        from mads4.data.formats.og_marl_write import uid_folder

        uid = args.uid or (selected.entry and selected.entry.quality.title())
        if not uid:
            raise UserError("--to og_marl: name the recording to write, for example --uid Expert.")
        place, options = uid_folder(target, uid), {"uid": uid}
    write = formats()[args.to].write
    assert write is not None, "checked before anything is opened"
    with (
        _exclusive(place),
        progress_bar("writing", args.limit, not args.quiet) as advance,
        _replacing(place, args),
    ):
        episodes = _counted(islice(selected.source.episodes(), args.limit), advance)
        return write(target, selected.source.spec, episodes, **options)


def _exclusive(target: Path) -> AbstractContextManager[None]:
    """Hold the target's lock, waiting for another process that writes there."""
    whole = target.resolve()
    return locked(whole.parent / f".{whole.name}.lock", f"writes {target}")


def _counted(episodes: Iterator[Episode], advance: Advance) -> Iterator[Episode]:
    for done, episode in enumerate(episodes, 1):
        yield episode
        advance(done, "episodes")


def _require_free(target: Path, args: argparse.Namespace) -> None:
    """Refuse to replace an existing target without --force, and the source in any case."""
    if not target.exists():
        return
    read = [*getattr(args, "sources", []), *([args.source] if hasattr(args, "source") else [])]
    for path in (Path(name).expanduser().resolve() for name in read):
        whole = target.resolve()
        if path == whole or whole in path.parents or path in whole.parents:
            raise UserError(f"{target} is the source, or overlaps with it. Give another target.")
    if not args.force:
        raise UserError(f"{target} exists. Give another name, or --force to replace it.")


@contextmanager
def _replacing(target: Path, args: argparse.Namespace) -> Iterator[None]:
    """Put a folder aside while another takes its place, and back if that fails.

    Only what is a data set in the format to be written is ever replaced.
    """
    _require_free(target, args)
    if not target.exists():
        yield
        return
    if not target.is_dir() or looks_like(target) != args.to:
        raise UserError(f"{target} is no data set in the format {args.to}; it is left alone.")
    aside = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    target.replace(aside)
    try:
        yield
    except BaseException:
        aside.replace(target)
        raise
    shutil.rmtree(aside)


def _parts(text: str) -> Sequence[float | int]:
    """Return the sizes of the parts: shares have a decimal point, numbers of episodes none."""
    try:
        return [float(word) if "." in word else int(word) for word in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"--parts: got '{text}', expected shares such as 0.9,0.1 or numbers of episodes "
            "such as 80,20."
        ) from error
