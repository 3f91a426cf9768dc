"""A benchmark from the command line to its files: ``<out>.csv``, ``<out>.json``, ``<out>.png``."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.measure import Control, Effort
from harness.memory import reason_against
from harness.options import device_of
from harness.rows import write_csv
from mads4.errors import UserError
from mads4.io import write_json
from mads4.provenance import collect_provenance

_CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True)
class Plan:
    """A benchmark ready to be measured, and the presentation of its rows (dataclasses)."""

    sizes: str
    """For the title."""
    grid: Any
    """A dataclass; part of the JSON file, as are the settings."""
    settings: Any
    control: Control
    rows: Iterable[Any]
    """Measured while they are iterated over."""
    headings: Callable[[], str]
    to_text: Callable[[Any], str]
    draw: Callable[[Sequence[Any], Path, str], bool]
    unavailable: dict[str, str] = field(default_factory=dict)
    """Backend → why it cannot run here; its rows are written but not shown."""
    more: Callable[[Sequence[Any]], tuple[dict[str, Any], str]] = lambda rows: ({}, "")
    """All rows → further facts for the JSON file, and text."""


def run(
    benchmark: str,
    args: argparse.Namespace,
    make_plan: Callable[[argparse.Namespace, torch.device], Plan],
) -> int:
    """Measure a plan and return the exit code: 0, or 2 after a user's mistake.

    A row appears, and is in the CSV file, as soon as it is measured.
    """
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        out = _writable(args.out or Path("outputs", "bench", benchmark))
        device = device_of(args.device)
        plan = make_plan(args, device)
        rows = _measure(plan, device, out)
        _describe(benchmark, plan, device, rows, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def effort_of(args: argparse.Namespace) -> Effort:
    """Return the effort that the options ask for."""
    return Effort(args.repeats, args.min_seconds, args.max_seconds)


def progress(text: str) -> None:
    """Show the cell in progress on a terminal, in one line that the next result overwrites."""
    if sys.stderr.isatty():
        sys.stderr.write(_CLEAR_LINE + text)
        sys.stderr.flush()


def _measure(plan: Plan, device: torch.device, out: Path) -> list[Any]:
    reason = reason_against(device)
    if reason is not None:
        print(f"peak memory is left out: {reason}")
    print(plan.headings())
    rows: list[Any] = []
    for row in plan.rows:
        rows.append(row)
        with _writing(out):
            write_csv(rows, _beside(out, ".csv"))
        if getattr(row, "backend", None) not in plan.unavailable:
            print(plan.to_text(row), flush=True)
    return rows


def _describe(benchmark: str, plan: Plan, device: torch.device, rows: list[Any], out: Path) -> None:
    """Write the facts and the plot, and print where they are."""
    more, text = plan.more(rows)
    facts = _facts(benchmark, plan, device) | more
    control, machine = facts["control"], facts["machine"]
    title = (
        f"mads4, benchmark {benchmark}: {plan.sizes}\n"
        f"{machine['device_name'] or machine['processor']}, threads: {facts['threads']}, "
        f"control {control['gflops']:.0f} GFLOP/s"
    )
    with _writing(out):
        write_json(_beside(out, ".json"), facts)
        suffixes = [".csv", ".json"] + [".png"] * plan.draw(rows, _beside(out, ".png"), title)
    print(
        f"{text}"
        f"control: {control['operation']} in {control['ms']:.2f} ms "
        f"({control['ms_p10']:.2f} - {control['ms_p90']:.2f}), {control['gflops']:.0f} GFLOP/s\n"
        f"written: {' '.join(shlex.quote(str(_beside(out, suffix))) for suffix in suffixes)}"
    )


def _facts(benchmark: str, plan: Plan, device: torch.device) -> dict[str, Any]:
    """Return the machine, the code, the control and the settings, fit for JSON."""
    control = plan.control.timing
    origin = collect_provenance(device=str(device))
    kept = ("created", "command", "versions", "git", "machine")
    return {
        "benchmark": benchmark,
        **{name: origin[name] for name in kept},
        "threads": plan.settings.threads,
        "grid": asdict(plan.grid),
        "settings": asdict(plan.settings),
        "control": {
            "operation": f"{plan.control.size} x {plan.control.size} float32 matrix product",
            "ms": control.median,
            "ms_p10": control.quantile(0.1),
            "ms_p90": control.quantile(0.9),
            "runs": control.runs,
            "gflops": plan.control.gflops(control.median),
        },
        "unavailable": plan.unavailable,
        "memory_left_out": reason_against(device),
    }


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn an error of the file system into a user's mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}. Give another path.") from error


def _writable(out: Path) -> Path:
    """Make the folder of the files, and try to write there, before anything is measured."""
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    return out


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)
