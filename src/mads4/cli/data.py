"""`mads4 data`: find, get, convert, check, edit and inspect data sets."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mads4.errors import UserError

SOURCE_HELP = "file, folder, or name in `mads4 data list`"
_ACTIONS = {
    "list": "mads4.cli.data_list:list_sets",
    "download": "mads4.cli.data_list:download",
    "show": "mads4.cli.data_show:show",
    "verify": "mads4.cli.data_show:verify",
    "plot": "mads4.cli.data_show:plot",
    "convert": "mads4.cli.data_make:convert",
    "merge": "mads4.cli.data_make:merge",
    "split": "mads4.cli.data_make:split",
    "filter": "mads4.cli.data_make:filter_episodes",
}
"""Action → its function, ``(parsed arguments) -> None``, imported when it is used."""


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 data` and return its exit code.

    An `OSError` (a name too long, a full disk, a folder without permission) becomes a `UserError`.
    """
    args = parser(command).parse_args(argv)
    module, _, function = _ACTIONS[args.action].partition(":")
    action: Callable[[argparse.Namespace], None] = getattr(
        importlib.import_module(module), function
    )
    try:
        action(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, for example `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        raise UserError(f"{error.filename or args.action}: {error.strerror or error}.") from error
    return 0


def parser(command: str = "data") -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(prog=f"mads4 {command}", description=__doc__)
    actions = whole.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_registry(actions)
    _add_readers(actions)
    _add_convert(actions)
    _add_edits(actions)
    return whole


def _add_registry(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listed = actions.add_parser("list", help="published data sets, and what is on this machine")
    for name in ("env", "scenario", "quality", "format"):
        listed.add_argument(f"--{name}", metavar="WORD", help=f"only those of this {name}")
    listed.add_argument("--here", action="store_true", help="only those on this machine")
    listed.add_argument("--json", action="store_true", help="machine-readable output")
    download = actions.add_parser("download", help="download and unpack a published data set")
    download.add_argument("name", metavar="NAME", help="name in `mads4 data list`")
    download.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_readers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = actions.add_parser("show", help="sizes, returns and origin of a data set")
    _add_source(show)
    show.add_argument("--json", action="store_true", help="machine-readable output")
    verify = actions.add_parser("verify", help="read and check a whole data set")
    _add_source(verify)
    verify.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="also compare the files it was converted from with those at PATH",
    )
    verify.add_argument("--quiet", action="store_true", help="no progress bar")
    plot = actions.add_parser("plot", help="draw returns, lengths and actions of a data set")
    _add_source(plot)
    plot.add_argument(
        "out",
        type=Path,
        nargs="?",
        metavar="PNG",
        help="picture to write; <name>.png in this folder by default",
    )
    plot.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_convert(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = actions.add_parser("convert", help="write a data set in another format")
    _add_source(convert)
    _add_target(convert)
    convert.add_argument(
        "--to",
        metavar="FORMAT",
        default="hdf5",
        help="format to write: hdf5 (our own, the default), madt, alberdice or og_marl",
    )
    convert.add_argument("--limit", type=int, metavar="N", help="only the first N episodes")
    convert.add_argument("--name", default="", help="name of the data set, in our own format")


def _add_edits(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    merge = actions.add_parser("merge", help="join data set files of one environment")
    merge.add_argument("sources", type=Path, nargs="+", metavar="SRC", help="data set files")
    _add_target(merge)
    split = actions.add_parser("split", help="divide a data set file at random")
    split.add_argument("source", type=Path, metavar="SRC", help="data set file")
    split.add_argument("targets", type=Path, nargs="+", metavar="DST", help="a file for each part")
    split.add_argument(
        "--parts",
        required=True,
        metavar="A,B,...",
        help="size of each part: shares (0.9,0.1) or numbers of episodes (80,20)",
    )
    split.add_argument("--seed", type=int, default=0, help="seed of the random split (default: 0)")
    _add_write_flags(split)
    keep = actions.add_parser("filter", help="keep some episodes of a data set file")
    keep.add_argument("source", type=Path, metavar="SRC", help="data set file")
    _add_target(keep)
    for name, kind, words in (
        ("min-return", float, "minimum return"),
        ("max-return", float, "maximum return"),
        ("min-length", int, "minimum number of steps"),
        ("max-length", int, "maximum number of steps"),
        ("best", float, "share of the episodes to keep, those with the highest returns"),
        ("pct-traj", float, "share of the steps to keep, in the episodes with the highest returns"),
    ):
        keep.add_argument(f"--{name}", type=kind, metavar="X", help=words)


def _add_source(action: argparse.ArgumentParser) -> None:
    """Add the data set's path or name, and options for what its format does not store."""
    action.add_argument("source", metavar="SRC", help=SOURCE_HELP)
    action.add_argument(
        "--from",
        dest="format",
        metavar="FORMAT",
        help="hdf5, madt, alberdice, og_marl, or your own package.module:function; "
        "detected if not given",
    )
    action.add_argument(
        "--uid", help="recording of an OG-MARL vault, for example Good, to read or write"
    )
    action.add_argument(
        "--team-reward",
        choices=("sum", "mean"),
        help="team reward of a vault with one reward per agent (default: sum)",
    )
    action.add_argument("--env", metavar="NAME", help="environment that was recorded")
    action.add_argument("--scenario", metavar="NAME", help="scenario that was recorded")
    action.add_argument("--reward", metavar="NAME", help="name of the reward definition")
    action.add_argument("--state-encoding", metavar="NAME", help="name of the state's encoding")


def _add_target(action: argparse.ArgumentParser) -> None:
    action.add_argument("target", type=Path, metavar="DST", help="file (or folder) to write")
    _add_write_flags(action)


def _add_write_flags(action: argparse.ArgumentParser) -> None:
    action.add_argument("--force", action="store_true", help="replace an existing file or folder")
    action.add_argument("--quiet", action="store_true", help="no progress bar")
