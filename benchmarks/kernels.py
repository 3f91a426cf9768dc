"""Time and peak memory of kernels, layers and single steps, by every backend and plain formulas.

    python benchmarks/kernels.py kernels --lengths 50,500,2000,16000
    python benchmarks/kernels.py layer      # S4 layers and blocks over sequences, kernel included
    python benchmarks/kernels.py step       # one time step of a layer and of three blocks

A matrix product, timed in the same run, is the control. The results are printed and written to
``<out>.csv``, ``<out>.json`` and a plot, ``<out>.png``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when PyTorch is imported: a quiet profiler

import torch

from harness import picture, rows
from harness.command import Plan, effort_of, progress, run
from harness.options import TIMES, Options, names, number, numbers
from harness.suite import Grid, Settings, Suite, selectable, unavailable
from mads4.errors import UserError
from mads4.nn.ssm import PARAMETERIZATIONS

SUMMARIES = {
    "kernels": "impulse responses, from parameters to taps",
    "layer": "S4 layers and blocks over whole sequences, kernel included",
    "step": "single time steps of a layer and of three blocks, without gradients",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "kernels": {"lengths": [50, 500, 2000], "batch": [1], **TIMES},
    "layer": {"lengths": [50, 500], "batch": [32], **TIMES},
    "step": {"lengths": [1], "batch": [1, 2, 32, 64], **TIMES},
}
QUICK: dict[str, dict[str, Any]] = {
    "kernels": {"lengths": [16, 64], "batch": [1]},
    "layer": {"lengths": [16, 64], "batch": [2]},
    "step": {"lengths": [1], "batch": [1, 2]},
}
ON_REQUEST = ("auto", "compiled")
"""Not measured by default: another backend's alias, and one that compiles for a minute."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the benchmarks and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="benchmark")
    options = {}
    for name, summary in SUMMARIES.items():
        one = benchmarks.add_parser(name, help=summary, description=f"Measure {summary}.")
        options[name] = Options(one, DEFAULTS[name], QUICK[name])
        _add_options(options[name], name)
    args = parser.parse_args(argv)
    return run(args.benchmark, options[args.benchmark].fill(args), plan)


def _add_options(options: Options, name: str) -> None:
    if name != "step":
        options.add("--lengths", numbers(1), "L,…", "sequence lengths")
    if name != "kernels":
        options.add("--batch", numbers(1), "B,…", "batch sizes")
    allowed, add = selectable(name), options.parser.add_argument
    add(
        "--backends",
        type=names(allowed),
        metavar="NAME,…",
        help=f"of {', '.join(allowed)}; default: all but {' and '.join(ON_REQUEST)}",
    )
    add(
        "--parameterizations",
        type=names(PARAMETERIZATIONS),
        default=list(PARAMETERIZATIONS),
        metavar="NAME,…",
        help=f"of {', '.join(PARAMETERIZATIONS)}; default: all",
    )
    add("--dtype", choices=("float32", "float64"), default="float32")
    add(
        "--reference-memory",
        type=number(1),
        default=4096,
        metavar="MIB",
        help="leave out plain formulas that would need more (default 4096)",
    )
    options.add_common()


def plan(args: argparse.Namespace, device: torch.device) -> Plan:
    """Plan the cells of all backends that run here, and print why the others do not.

    Raises:
        UserError: If none of the backends runs.
    """
    backends = args.backends or [n for n in selectable(args.benchmark) if n not in ON_REQUEST]
    reasons = unavailable(backends, device)
    for name, reason in reasons.items():
        print(f"{name}: cannot run here: {reason}")
    if set(backends) <= set(reasons):
        raise UserError(
            f"--backends {','.join(backends)}: none of them can run on {device.type}. "
            "Choose others, or see `mads4 doctor`."
        )
    grid = Grid(
        parameterizations=args.parameterizations,
        backends=backends,
        lengths=args.lengths,
        batches=args.batch,
        channels=args.channels,
        state=args.state,
        dtype=args.dtype,
        device=str(device),
    )
    threads = torch.get_num_threads()
    settings = Settings(effort_of(args), threads, args.control, args.reference_memory)
    suite = Suite(settings, device, reasons, progress)
    return Plan(
        sizes=f"H = {grid.channels}, N = {grid.state}, {grid.dtype}",
        grid=grid,
        settings=settings,
        control=suite.control,
        rows=suite.rows(grid.cells(args.benchmark)),
        headings=rows.headings,
        to_text=rows.to_text,
        draw=picture.draw,
        unavailable=reasons,
        more=lambda _: ({"profiles": suite.profiles}, ""),
    )


if __name__ == "__main__":
    sys.exit(main())
