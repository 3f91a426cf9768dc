"""Time kernels, layers and single steps beside those of state-spaces/s4, one right after the other.

    git clone https://github.com/state-spaces/s4 && git -C s4 checkout e757cef
    pip install einops pykeops
    python benchmarks/state_spaces.py --checkout s4 --out benchmarks/results/state_spaces

float32, H = 96, on a CPU; A, B, C and Δ are trained on both sides, A and B per channel.

- ``kernel``: the taps alone, N = 96.
- ``layer``: their ``S4Block`` (convolution, GELU, gated linear mixing) and the ``S4D`` of their
  ``s4d.py`` beside our block, which in addition normalizes and adds the residual; forward and
  backward, parameters and input. Each side has the memory order that it is written for: theirs
  (B, H, L), their default, ours (H, B, L).
- ``step``: one time step without gradients, of the kernel (ours with the feedthrough D) and of the
  block. Their DPLR kernel has three modes: ``dense`` (the default) and ``linear`` are timed;
  ``diagonal`` diagonalizes the state matrix and is not, because its outputs are wrong: the error of
  every mode against its own side's convolution is reported too.

Peak memory is that of forward and backward, above what was held before, each in a fresh process.
All of their variants (``naive``, ``keops``, ``s4d.py``) and all of our backends take turns; each
figure's best of one side is compared with the best of the other. The control is a 2048 x 2048
float32 product, timed between all measurements.

How their files are imported: `state_spaces_sides.py`. Their KeOps formulas, written for GPUs, run
here with ``backend='CPU'``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from harness.measure import Control, Effort, Timing, measure_time
from harness.memory import peak_mebibytes, reason_against
from harness.rows import short
from mads4.io import write_json, write_text
from mads4.kernels.backends import choose
from state_spaces_sides import (
    BOTH,
    CHANNELS,
    STATE,
    STEP,
    Cell,
    make,
    plan,
    prepared,
    source,
    step_errors,
)

CPU = torch.device("cpu")
CONTROL_SIZE, CONTROL_RUNS = 2048, 2


@dataclass(frozen=True)
class Settings:
    """How cells are measured."""

    checkout: Path
    effort: Effort
    rounds: int
    threads: int
    plain_gibibytes: float
    """Their plain formula is left out where it would need more."""


def time_side(
    cell: Cell, side: str, settings: Settings, control: Control
) -> tuple[dict[str, Timing], list[float]]:
    """Return one round's times of every part, and the control's times around them."""
    timings = {}
    with torch.set_grad_enabled(BOTH in cell.parts):
        actions = make(cell, side, settings.checkout)
        controls = control.sample(CONTROL_RUNS)
        for part in cell.parts:
            timings[part] = measure_time(actions[part], settings.effort, CPU)
            controls += control.sample(CONTROL_RUNS)
    return timings, controls


def measure(
    cell: Cell, sides: Sequence[str], settings: Settings, control: Control
) -> dict[str, dict[str, Any]]:
    """Return, per side, times in milliseconds, peak memory in MiB and the control's rate.

    The sides take turns, so that noise affects all of them.
    """
    turns = [
        {side: time_side(cell, side, settings, control) for side in sides}
        for _ in range(settings.rounds)
    ]
    results: dict[str, dict[str, Any]] = {}
    for side in sides:
        controls = [time for turn in turns for time in turn[side][1]]
        results[side] = {"control_gflops": control.gflops(median(controls))}
        for part in cell.parts:
            times = [time for turn in turns for time in turn[side][0][part].milliseconds]
            results[side][part] = summary(Timing(tuple(times)))
        if BOTH in cell.parts and reason_against(CPU) is None:
            prepare = partial(prepared, cell, side, settings.checkout)
            with contextlib.suppress(MemoryError):  # killed for lack of memory: no figure
                results[side]["mib"] = peak_mebibytes(prepare, CPU, settings.threads)
    return results


def summary(timing: Timing) -> dict[str, float]:
    """Return what is kept of the times of all runs."""
    return {
        "median_ms": timing.median,
        "min_ms": timing.minimum,
        "p10_ms": timing.quantile(0.1),
        "p90_ms": timing.quantile(0.9),
        "runs": timing.runs,
    }


def compare(cell: Cell, settings: Settings, control: Control) -> dict[str, Any]:
    """Measure their variants and ours and print them; return all figures and the ratios."""
    theirs = cell.theirs
    if "naive" in theirs and cell.plain_gibibytes() > settings.plain_gibibytes:
        theirs.remove("naive")
        print(f"{cell}  naive left out: needs about {cell.plain_gibibytes():.0f} GiB")
    with contextlib.redirect_stdout(sys.stderr):  # where KeOps announces compilations
        sides = measure(cell, [*theirs, *cell.ours], settings, control)
    rates = [side["control_gflops"] for side in sides.values()]
    for side, figures in sides.items():
        print(f"{cell}  {side:<12} {in_words(figures, cell.parts)}")
    record = {
        **asdict(cell),
        "control_gflops": [min(rates), max(rates)],
        "theirs": {side: sides[side] for side in theirs},
        "ours": {side: sides[side] for side in cell.ours},
    }
    record["best"] = compared(record["theirs"], record["ours"], cell.parts) if theirs else {}
    words = (f"{name} {short(best['times_better'])}" for name, best in record["best"].items())
    print(f"{cell}  {'better':<12} {', '.join(words)}", flush=True)
    return record


def compared(
    theirs: dict[str, Any], ours: dict[str, Any], parts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return how many times less the best of ours takes than the best of theirs, part by part."""
    result = {}
    for name in (*parts, "mib"):
        both = [
            {side: amount(figures[name]) for side, figures in sides.items() if name in figures}
            for sides in (theirs, ours)
        ]
        if all(both):
            least = [min(amounts, key=amounts.__getitem__) for amounts in both]
            ratio = both[0][least[0]] / max(both[1][least[1]], 1e-9)
            result[name] = {"theirs": least[0], "ours": least[1], "times_better": ratio}
    return result


def amount(figure: dict[str, float] | float) -> float:
    """Return a time's median in milliseconds, or a memory in MiB as it is."""
    return figure["median_ms"] if isinstance(figure, dict) else figure


def in_words(figures: dict[str, Any], parts: Sequence[str]) -> str:
    """Return one side's figures as a line."""
    words = [
        f"{part} {short(figures[part]['median_ms'])} ms ({short(figures[part]['p10_ms'])} - "
        f"{short(figures[part]['p90_ms'])}, {figures[part]['runs']} runs)"
        for part in parts
    ]
    words += [f"{short(figures['mib'])} MiB"] if "mib" in figures else []
    return "  ".join([*words, f"control {short(figures['control_gflops'])} GFLOP/s"])


def markdown(report: dict[str, Any]) -> str:
    """Return all comparisons as tables, one for training and one for stepping."""
    machine = report["machine"]
    lines = [
        f"float32, H = {CHANNELS}, {machine['threads']} threads of {machine['processor']}, PyTorch "
        f"{machine['torch']}; control {short(report['control_gflops'])} GFLOP/s. Medians, each "
        "side's best in bold; memory above what was held before, of forward and backward.",
        "",
    ]
    for stepping, unit, scale in ((False, "ms", 1.0), (True, "µs", 1e3)):
        cells = [cell for cell in report["cells"] if cell["case"].startswith(STEP) == stepping]
        if cells:
            lines += [
                f"| | system | B | L | N | | theirs, {unit} | ours, {unit} | times better "
                "| control, GFLOP/s |",
                "|---|---|---:|---:|---:|---|---|---|---:|---:|",
            ]
            lines += [row for cell in cells for row in table_rows(cell, scale)]
            lines.append("")
    if report["step_errors"]:
        lines += ["| stepping against convolution | relative error |", "|---|---:|"]
        lines += [f"| {name} | {error:.1e} |" for name, error in report["step_errors"].items()]
    return "\n".join(lines).rstrip() + "\n"


def table_rows(cell: dict[str, Any], scale: float) -> Iterator[str]:
    """Yield a line per timed part of a comparison, and one for the memory."""
    for part, best in cell["best"].items():
        values = [
            *(cell[name] for name in ("case", "system", "batch", "length", "state")),
            "MiB" if part == "mib" else part,
            *(
                in_cell(cell[whose], best[whose], part, 1.0 if part == "mib" else scale)
                for whose in ("theirs", "ours")
            ),
            f"**{short(best['times_better'])}**",
            " - ".join(map(short, cell["control_gflops"])),
        ]
        yield "| " + " | ".join(map(str, values)) + " |"


def in_cell(sides: dict[str, Any], best: str, part: str, scale: float) -> str:
    """Return all variants of one side, the best in bold."""
    words = []
    for side, figures in sides.items():
        if part in figures:
            value = short(amount(figures[part]) * scale)
            words.append(f"{side} {f'**{value}**' if side == best else value}")
    return ", ".join(words)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkout", type=Path, required=True, help="clone of state-spaces/s4")
    parser.add_argument("--out", type=Path, help="where to write .md and .json, without suffix")
    parser.add_argument("--only", choices=("kernel", "layer", "step"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[], help="of kernels and layers")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs in a round (default 7)")
    parser.add_argument("--rounds", type=int, default=2, help="in which the sides take turns")
    parser.add_argument("--max-seconds", type=float, default=5.0, help="then two runs are enough")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--skip-plain-over", type=float, default=16.0, metavar="GIB", help="default 16"
    )
    return parser.parse_args()


def check(checkout: Path) -> None:
    """End with what to do if their code cannot be imported."""
    for path in (source(checkout, "s4"), source(checkout, "s4d")):
        if not path.is_file():
            raise SystemExit(
                f"--checkout {checkout}: there is no {path}. Run `git clone "
                "https://github.com/state-spaces/s4 && git -C s4 checkout e757cef`, then "
                "give --checkout s4."
            )
    if importlib.util.find_spec("einops") is None:
        raise SystemExit("state-spaces/s4 needs einops: run `pip install einops`.")
    if importlib.util.find_spec("pykeops") is None:
        print("pykeops is not installed: their KeOps variants are left out.")


def machine(checkout: Path, threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    digest = hashlib.sha256(source(checkout, "s4").read_bytes()).hexdigest()
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "our_backend": choose("auto").backend.name,
        "their_s4_sha256": digest,
    }


def bind_threads(threads: int) -> None:
    """Restart this process with one core for every OpenMP thread.

    Linux may keep both threads of a young process on one core for seconds, which halves the control
    and, where threads wait for each other, costs a step of 0.2 ms some 8 ms. OpenMP reads these
    variables only once, when it is loaded: PyTorch's, and later that of KeOps' formulas.
    """
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_PROC_BIND": "spread",
        "OMP_PLACES": "threads",
    }
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
    """Measure all cells and rewrite the report after each."""
    args = arguments()
    check(args.checkout)
    bind_threads(args.threads)
    torch.set_num_threads(args.threads)
    effort = Effort(args.repeats, min_seconds=0.3, max_seconds=args.max_seconds)
    checkout = args.checkout.resolve()
    settings = Settings(checkout, effort, args.rounds, args.threads, args.skip_plain_over)
    control = Control(CONTROL_SIZE, CPU)
    errors = step_errors(checkout, STATE) if args.only in (None, "step") else {}
    for name, error in errors.items():
        print(f"stepping against convolution, {name}: relative error {error:.1e}")
    report: dict[str, Any] = {
        "machine": machine(checkout, args.threads),
        "step_errors": errors,
        "cells": [],
    }
    for cell in plan(args.only, args.lengths):
        report["cells"].append(compare(cell, settings, control))
        report["control_gflops"] = control.gflops(control.timing.median)
        if args.out is not None:
            write_json(args.out.with_suffix(".json"), report)
            write_text(args.out.with_suffix(".md"), markdown(report))


if __name__ == "__main__":
    main()
