"""`mads4 <command>`: find the command, import it and run it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType

from mads4 import __version__
from mads4.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Command:
    """A command, imported only when it is called."""

    summary: str
    function: str
    """``module:function``, called with the command's name and its words; returns the exit code."""


COMMANDS = {
    "train": Command("train a policy on a data set and evaluate it", "mads4.cli.jobs:run"),
    "collect": Command("record a data set with a behavior policy", "mads4.cli.jobs:run"),
    "evaluate": Command("play a trained policy", "mads4.cli.jobs:run"),
    "probe": Command("measure what the agents' chain is worth to a policy", "mads4.cli.jobs:run"),
    "data": Command("get, convert, check, edit and draw data sets", "mads4.cli.data:run"),
    "export": Command("write one agent as a program of its own", "mads4.cli.export:run"),
    "report": Command("show a run's results, or compare several runs", "mads4.cli.main:report"),
    "doctor": Command("say what is installed and what this machine offers", "mads4.cli.doctor:run"),
}

EXAMPLES = """\
examples:
  mads4 train experiment=smoke                       every stage in a few seconds
  mads4 train env.scenario=small-2ag seed=1          change any value on the command line
  mads4 train -m seed=0,1 model.message=none,output  four jobs, four directories
  mads4 evaluate checkpoint=outputs/mads4/<time> evaluator.episodes=100
  mads4 probe checkpoint=outputs/mads4/<time>        returns with messages lost, chain cut ...
  mads4 export checkpoint=outputs/mads4/<time> out=agent.onnx
  mads4 report outputs/mads4
  mads4 data list                                    published data sets, and those here
  mads4 data show <file>.h5

`mads4 <command> --help` says what can be set."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 failed, 2 wrong usage."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"mads4 {__version__}\n")
        return 0
    name, *rest = words
    try:
        if name not in COMMANDS:
            raise UserError(
                f"no command '{name}', choose one of {', '.join(COMMANDS)}."
                f"{did_you_mean(name, COMMANDS)}"
            )
        signal.signal(signal.SIGTERM, _interrupt)
        code: int = resolve_name(COMMANDS[name].function)(name, rest)
        return code
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def complain(error: UserError) -> None:
    """Write a user's mistakes to standard error, one line each."""
    for line in str(error).splitlines():
        sys.stderr.write(f"error: {line}\n")


def usage() -> str:
    """Return the list of commands with examples."""
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: mads4 <command> [key=value ...]", "", "commands:", *lines, "", EXAMPLES]
    )


def report(command: str, argv: list[str]) -> int:
    """Run `mads4 report RUN...`: one run's results and picture, or several runs side by side."""
    parser = argparse.ArgumentParser(
        prog=f"mads4 {command}",
        description="Show one run's results and picture, or several runs side by side.",
    )
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="RUN", help="run directories, or folders of them"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the comparison there")
    parser.add_argument(
        "--each", action="store_true", help="a row for each run instead of means over seeds"
    )
    parser.add_argument(
        "--mix",
        action="store_true",
        help="average even over runs of different data sets or reward definitions",
    )
    args = parser.parse_args(argv)

    from mads4.report import compare

    runs = compare.find_runs(args.paths)
    if len(runs) == 1 and args.csv is None:
        _report_one(runs[0])
        return 0
    frame = compare.compare(runs, over_seeds=not args.each, mix=args.mix)
    sys.stdout.write(compare.to_markdown(frame))
    if args.csv is not None:
        compare.write_csv(frame, args.csv)
    return 0


def _report_one(run_dir: Path) -> None:
    from rich.console import Console

    from mads4.evaluation.record import RunRecord
    from mads4.logging import read_metrics
    from mads4.report.picture import RESULT_PICTURE, result_picture
    from mads4.report.table import result_table

    record = RunRecord.load(run_dir)
    Console().print(result_table(record))
    result_picture(record, read_metrics(run_dir), run_dir / RESULT_PICTURE)
    sys.stdout.write(f"picture: {run_dir / RESULT_PICTURE}\n")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Turn a termination signal into what Ctrl-C raises, so that work is saved alike."""
    logging.getLogger(__name__).debug("signal %d", signum)
    raise KeyboardInterrupt
