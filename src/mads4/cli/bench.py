"""Time and peak memory of S4 kernels, layers and steps, by every backend and by plain formulas."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mads4.cli import bench_options
from mads4.errors import UserError

if TYPE_CHECKING:
    import torch

    from mads4.bench.rows import Row
    from mads4.bench.suite import Grid, Suite

_CLEAR_LINE = "\r\x1b[K"


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 bench`: a row appears, and is in the CSV file, as soon as it is measured.

    Raises:
        UserError: If no backend that was asked for can run, the device is not there, or the files
            cannot be written.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when PyTorch is imported: no chatter
    args = bench_options.parse(command, argv)

    import torch

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    out = _writable(args.out)
    device = _device(args.device)
    grid, suite = _plan(args, device)
    rows = _measure(args.benchmark, grid, suite, out)
    _describe(args.benchmark, grid, suite, rows, out)
    return 0


def _plan(args: argparse.Namespace, device: torch.device) -> tuple[Grid, Suite]:
    """Find out which backends run here, and say why the others do not."""
    from mads4.bench.measure import Effort
    from mads4.bench.suite import Grid, Settings, Suite, selectable, unavailable

    backends = args.backends or [name for name in selectable(args.benchmark) if name not in _EXTRA]
    reasons = unavailable(backends, device)
    for name, reason in reasons.items():
        sys.stdout.write(f"{name}: cannot run here: {reason}\n")
    if set(backends) <= set(reasons):
        raise UserError(
            f"--backends {','.join(backends)}: none of them can run on {device.type}. "
            "Take others, or see `mads4 doctor`."
        )
    grid = Grid(
        parameterisations=args.parameterisations,
        backends=backends,
        lengths=args.lengths,
        batches=args.batch,
        channels=args.channels,
        state=args.state,
        dtype=args.dtype,
        device=str(device),
    )
    settings = Settings(
        effort=Effort(args.repeats, args.min_seconds, args.max_seconds),
        threads=_threads(),
        control_size=args.control,
        reference_mebibytes=args.reference_memory,
    )
    return grid, Suite(settings, device, reasons, _progress)


_EXTRA = ("auto", "compiled")
"""Measured only if asked for: the one is another's name, the other compiles for a minute."""


def _measure(benchmark: str, grid: Grid, suite: Suite, out: Path) -> list[Row]:
    from mads4.bench.memory import reason_against
    from mads4.bench.rows import headings, to_text, write_csv

    reason = reason_against(suite.device)
    if reason is not None:
        sys.stdout.write(f"peak memory is left out: {reason}\n")
    sys.stdout.write(headings() + "\n")
    rows: list[Row] = []
    for row in suite.rows(grid.cells(benchmark)):
        rows.append(row)
        with _writing(out):
            write_csv(rows, _beside(out, ".csv"))
        if row.backend not in suite.unavailable:
            sys.stdout.write(to_text(row) + "\n")
            sys.stdout.flush()
    return rows


def _describe(benchmark: str, grid: Grid, suite: Suite, rows: list[Row], out: Path) -> None:
    """Write what the figures were measured with, and the plot; say where everything is."""
    from mads4.atomic import write_json
    from mads4.bench.picture import draw

    facts = _facts(benchmark, grid, suite)
    control, machine = facts["control"], facts["machine"]
    title = (
        f"mads4 bench {benchmark}: H = {grid.channels}, N = {grid.state}, {grid.dtype}\n"
        f"{machine['device_name'] or machine['processor']}, threads: {facts['threads']}, "
        f"control {control['gflops']:.0f} GFLOP/s"
    )
    with _writing(out):
        write_json(_beside(out, ".json"), facts)
        suffixes = [".csv", ".json"] + [".png"] * draw(rows, _beside(out, ".png"), title)
    sys.stdout.write(
        f"control: {control['operation']} in {control['ms']:.2f} ms "
        f"({control['ms_p10']:.2f} - {control['ms_p90']:.2f}), {control['gflops']:.0f} GFLOP/s\n"
        f"written: {' '.join(shlex.quote(str(_beside(out, suffix))) for suffix in suffixes)}\n"
    )


def _facts(benchmark: str, grid: Grid, suite: Suite) -> dict[str, Any]:
    """Return the machine, the code, the control and the settings, fit for JSON."""
    from dataclasses import asdict

    from mads4.bench.memory import reason_against
    from mads4.provenance import collect_provenance

    control = suite.control.timing
    origin = collect_provenance(device=grid.device)
    kept = ("created", "command", "versions", "git", "machine")
    return {
        "benchmark": benchmark,
        **{name: origin[name] for name in kept},
        "threads": suite.settings.threads,
        "grid": asdict(grid),
        "settings": asdict(suite.settings),
        "control": {
            "operation": f"{suite.control.size} x {suite.control.size} float32 matrix product",
            "ms": control.median,
            "ms_p10": control.quantile(0.1),
            "ms_p90": control.quantile(0.9),
            "runs": control.runs,
            "gflops": suite.control.gflops(control.median),
        },
        "unavailable": dict(suite.unavailable),
        "memory_left_out": reason_against(suite.device),
        "profiles": suite.profiles,
    }


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the first CUDA device, or the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: allowed are auto, cpu, cuda and cuda:<number>.")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is none: {error}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices. "
            "Take --device cpu, or see `mads4 doctor`."
        )
    return device


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn what the system says about a place that cannot be written into a user's mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}. Give another place.") from error


def _writable(out: Path) -> Path:
    """Make the folder of the files, and try to write there, before anything is measured."""
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    return out


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)


def _progress(words: str) -> None:
    """Show what is being measured on a terminal, in one line that the next result overwrites."""
    if sys.stderr.isatty():
        sys.stderr.write(_CLEAR_LINE + words)
        sys.stderr.flush()
