"""`mads4 report RUN...`: one run's results and picture, or several runs side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 report` and return its exit code."""
    parser = argparse.ArgumentParser(prog=f"mads4 {command}", description=__doc__)
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
        _show_one(runs[0])
        return 0
    frame = compare.compare(runs, over_seeds=not args.each, mix=args.mix)
    sys.stdout.write(compare.to_markdown(frame))
    if args.csv is not None:
        compare.write_csv(frame, args.csv)
    return 0


def _show_one(run_dir: Path) -> None:
    from rich.console import Console

    from mads4.evaluation.record import RunRecord
    from mads4.logging import read_metrics
    from mads4.report.picture import RESULT_PICTURE, result_picture
    from mads4.report.table import result_table

    record = RunRecord.load(run_dir)
    Console().print(result_table(record))
    result_picture(record, read_metrics(run_dir), run_dir / RESULT_PICTURE)
    sys.stdout.write(f"picture: {run_dir / RESULT_PICTURE}\n")
