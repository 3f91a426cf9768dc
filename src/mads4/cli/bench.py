"""Time and peak memory of kernels, layers, steps and whole policies, beside what they replace."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mads4.cli import bench_options
from mads4.errors import UserError

if TYPE_CHECKING:
    import torch

    from mads4.bench.measure import Control, Effort

_CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True)
class Plan:
    """A benchmark ready to be measured, and how its rows (a dataclass, one for each) are shown."""

    sizes: str
    """For the title."""
    grid: Any
    """A dataclass; said in the JSON file, as `settings` is."""
    settings: Any
    control: Control
    rows: Iterable[Any]
    """Measured as they are taken."""
    headings: Callable[[], str]
    to_text: Callable[[Any], str]
    draw: Callable[[Sequence[Any], Path, str], bool]
    unavailable: dict[str, str] = field(default_factory=dict)
    """Backend → why it cannot run here; its rows are written but not shown."""
    more: Callable[[Sequence[Any]], tuple[dict[str, Any], str]] = lambda rows: ({}, "")
    """What follows from all rows: facts for the JSON file, and text."""


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
    plan = (_agents if args.benchmark == "agents" else _parts)(args, device)
    rows = _measure(plan, device, out)
    _describe(args.benchmark, plan, device, rows, out)
    return 0


def _parts(args: argparse.Namespace, device: torch.device) -> Plan:
    """Plan kernels, layers or steps: which backends run here, and why the others do not."""
    from mads4.bench import picture, rows
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
        parameterizations=args.parameterizations,
        backends=backends,
        lengths=args.lengths,
        batches=args.batch,
        channels=args.channels,
        state=args.state,
        dtype=args.dtype,
        device=str(device),
    )
    settings = Settings(_effort(args), _threads(), args.control, args.reference_memory)
    suite = Suite(settings, device, reasons, _progress)
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


_EXTRA = ("auto", "compiled")
"""Measured only if asked for: the one is another's name, the other compiles for a minute."""


def _agents(args: argparse.Namespace, device: torch.device) -> Plan:
    """Plan training steps and decisions of whole policies."""
    from mads4.bench import agents_picture, agents_rows
    from mads4.bench.agents import N_LAYERS
    from mads4.bench.agents_suite import AgentGrid, AgentSettings, AgentSuite

    grid = AgentGrid(
        policies=args.policies,
        agents=args.agents,
        lengths=args.lengths,
        steps_per_batch=args.steps,
        environments=args.environments,
        channels=args.channels,
        state=args.state,
        parameterization=args.parameterization,
        device=str(device),
    )
    limits = args.max_run_seconds, args.max_memory
    settings = AgentSettings(_effort(args), _threads(), args.control, *limits)
    suite = AgentSuite(settings, device, _progress)

    def more(rows: Sequence[Any]) -> tuple[dict[str, Any], str]:
        fits = agents_rows.growth(rows)
        return {"growth": fits}, agents_rows.growth_text(fits) if fits else ""

    return Plan(
        sizes=f"{N_LAYERS} blocks, H = {grid.channels}, N = {grid.state}, {grid.parameterization}",
        grid=grid,
        settings=settings,
        control=suite.control,
        rows=suite.rows(grid.cells()),
        headings=agents_rows.headings,
        to_text=agents_rows.to_text,
        draw=agents_picture.draw,
        more=more,
    )


def _measure(plan: Plan, device: torch.device, out: Path) -> list[Any]:
    from mads4.bench.memory import reason_against
    from mads4.bench.rows import write_csv

    reason = reason_against(device)
    if reason is not None:
        sys.stdout.write(f"peak memory is left out: {reason}\n")
    sys.stdout.write(plan.headings() + "\n")
    rows: list[Any] = []
    for row in plan.rows:
        rows.append(row)
        with _writing(out):
            write_csv(rows, _beside(out, ".csv"))
        if getattr(row, "backend", None) not in plan.unavailable:
            sys.stdout.write(plan.to_text(row) + "\n")
            sys.stdout.flush()
    return rows


def _describe(benchmark: str, plan: Plan, device: torch.device, rows: list[Any], out: Path) -> None:
    """Write what the figures were measured with, and the plot; say where everything is."""
    from mads4.io import write_json

    more, text = plan.more(rows)
    facts = _facts(benchmark, plan, device) | more
    control, machine = facts["control"], facts["machine"]
    title = (
        f"mads4 bench {benchmark}: {plan.sizes}\n"
        f"{machine['device_name'] or machine['processor']}, threads: {facts['threads']}, "
        f"control {control['gflops']:.0f} GFLOP/s"
    )
    with _writing(out):
        write_json(_beside(out, ".json"), facts)
        suffixes = [".csv", ".json"] + [".png"] * plan.draw(rows, _beside(out, ".png"), title)
    sys.stdout.write(
        f"{text}"
        f"control: {control['operation']} in {control['ms']:.2f} ms "
        f"({control['ms_p10']:.2f} - {control['ms_p90']:.2f}), {control['gflops']:.0f} GFLOP/s\n"
        f"written: {' '.join(shlex.quote(str(_beside(out, suffix))) for suffix in suffixes)}\n"
    )


def _facts(benchmark: str, plan: Plan, device: torch.device) -> dict[str, Any]:
    """Return the machine, the code, the control and the settings, fit for JSON."""
    from dataclasses import asdict

    from mads4.bench.memory import reason_against
    from mads4.provenance import collect_provenance

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


def _effort(args: argparse.Namespace) -> Effort:
    from mads4.bench.measure import Effort

    return Effort(args.repeats, args.min_seconds, args.max_seconds)


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
