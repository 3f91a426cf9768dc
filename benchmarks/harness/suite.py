"""The benchmark of kernels, layers and steps from its grid to its rows."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from harness import memory
from harness.cases import COMPILED, REFERENCE, Cell, reference_mebibytes, workload
from harness.measure import Action, Control, Effort, Timing, measure_time, synchronize
from harness.rows import Row
from mads4.kernels.backends import AUTO, NAMES, reason_against

CASES = {"kernels": ("kernel",), "layer": ("layer", "block"), "step": ("step layer", "step stack")}
"""Benchmark as the user names it → its cases."""

PROFILED = frozenset({"block"})
_TRAINED = frozenset({"kernel", "layer", "block"})
_CONTROL_RUNS = 2

TRANSFORMS = ("aten::_fft_",)
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::_addmm")

_PROFILED_NAME = "measured"
_LISTED = 12


@dataclass(frozen=True)
class Grid:
    """The sizes and choices whose combinations are measured."""

    parameterizations: Sequence[str]
    backends: Sequence[str]
    lengths: Sequence[int]
    batches: Sequence[int]
    channels: int
    state: int
    dtype: str
    device: str

    def cells(self, benchmark: str) -> list[Cell]:
        """Return all combinations, the plain formula before those that are compared with it."""
        ordered = sorted(self.backends, key=lambda name: name != REFERENCE)
        combinations = itertools.product(
            CASES[benchmark], self.parameterizations, self.batches, self.lengths, ordered
        )
        return [
            Cell(
                case,
                parameterization,
                backend,
                length,
                self.channels,
                self.state,
                batch,
                self.dtype,
                self.device,
            )
            for case, parameterization, batch, length, backend in combinations
            if not (case == "step stack" and backend == REFERENCE)
        ]


@dataclass(frozen=True)
class Settings:
    """How the cells of a grid are measured."""

    effort: Effort
    threads: int
    control_size: int
    reference_mebibytes: float
    """Plain formulas that would need more are left out."""


@dataclass
class Suite:
    """Measures cells one after another, plain formulas before those compared with them."""

    settings: Settings
    device: torch.device
    unavailable: Mapping[str, str]
    """Backend → why it cannot run here."""
    progress: Callable[[str], None] = lambda words: None
    profiles: list[dict[str, Any]] = field(default_factory=list)
    """Operators' shares of the cells that were profiled."""

    def __post_init__(self) -> None:
        self.control = Control(self.settings.control_size, self.device)
        self._plain: dict[Cell, dict[str, Timing]] = {}

    def rows(self, cells: Sequence[Cell]) -> Iterator[Row]:
        """Yield the row of every cell as soon as it is measured."""
        for index, cell in enumerate(cells, start=1):
            self.progress(
                f"[{index}/{len(cells)}] {cell.case} {cell.parameterization} {cell.backend} "
                f"L={cell.length} B={cell.batch}"
            )
            reason = self._reason_to_leave_out(cell)
            row = _row(cell, note=reason) if reason else self._measure(cell)
            self.progress("")
            yield row

    def _reason_to_leave_out(self, cell: Cell) -> str:
        if cell.backend in self.unavailable:
            return f"cannot run here: {self.unavailable[cell.backend]}"
        limit = self.settings.reference_mebibytes
        if cell.backend == REFERENCE and cell.case in _TRAINED:
            needed = reference_mebibytes(cell)
            if needed > limit:
                return f"left out: would need about {needed:.0f} MiB, more than {limit:.0f}"
        return ""

    def _measure(self, cell: Cell) -> Row:
        try:
            with redirect_stdout(sys.stderr):  # where backends announce compilations
                return self._measured(cell)
        except torch.cuda.OutOfMemoryError:
            return _row(cell, note="out of memory")

    def _measured(self, cell: Cell) -> Row:
        values: dict[str, Any] = {}
        work = workload(cell)
        with work.context():
            controls = self.control.sample(_CONTROL_RUNS)
            timings = {"forward": measure_time(work.forward, self.settings.effort, self.device)}
            controls += self.control.sample(_CONTROL_RUNS)
            if work.forward_backward is not None:
                both = measure_time(work.forward_backward, self.settings.effort, self.device)
                timings["forward_backward"] = both
                controls += self.control.sample(_CONTROL_RUNS)
        product = median(controls)
        if cell.backend == REFERENCE:
            self._plain[cell] = timings
        for part, timing in timings.items():
            values |= self._columns(cell, part, timing, product)
        if cell.case in PROFILED and work.forward_backward is not None:
            values["fft_and_product_share"] = self._profile(cell, work.forward_backward)
        del work
        peaks, note = self._peaks(cell, list(timings))
        values |= {"control_ms": product, "control_gflops": self.control.gflops(product)}
        return _row(cell, **values, **peaks, note=note)

    def _columns(
        self, cell: Cell, part: str, timing: Timing, product: float
    ) -> dict[str, float | int]:
        columns: dict[str, float | int] = {
            f"{part}_ms": timing.median,
            f"{part}_ms_min": timing.minimum,
            f"{part}_ms_p10": timing.quantile(0.1),
            f"{part}_ms_p90": timing.quantile(0.9),
            f"{part}_runs": timing.runs,
            f"{part}_in_products": timing.median / product,
        }
        plain = self._plain.get(replace(cell, backend=REFERENCE))
        if plain is not None:
            columns[f"{part}_times_faster"] = plain[part].median / timing.median
        return columns

    def _profile(self, cell: Cell, action: Action) -> float:
        shares = operator_shares(action, self.device)
        about = {
            name: getattr(cell, name)
            for name in ("case", "parameterization", "backend", "length", "batch")
        }
        self.profiles.append({**about, "operators": largest(shares)})
        return product_share(shares)

    def _peaks(self, cell: Cell, parts: Sequence[str]) -> tuple[dict[str, float], str]:
        """Return the peak memory of each part, or the reason why it is unknown."""
        if memory.reason_against(self.device) is not None:
            return {}, ""  # the command prints it once for all rows
        peaks: dict[str, float] = {}
        for part in parts:
            prepare = partial(prepared, cell, part)
            try:
                peak = memory.peak_mebibytes(prepare, self.device, self.settings.threads)
            except MemoryError as error:
                return peaks, f"peak memory of {part} unknown: {error}"
            peaks[f"{part}_mib"] = peak
        return peaks, ""


def prepared(cell: Cell, part: str) -> Action:
    """Make a cell's inputs for measuring the memory of ``forward`` or ``forward_backward``.

    A shrunken cell runs first, so that loading libraries and starting threads is not counted. A
    step also runs as it is, because only its first run makes what all later ones use.
    """
    _action(cell.shrunken(), part)()
    action = _action(cell, part)
    if cell.case not in _TRAINED:
        action()
    return action


def _action(cell: Cell, part: str) -> Action:
    work = workload(cell)
    action = work.forward if part == "forward" else work.forward_backward
    if action is None:
        raise ValueError(f"{cell.case} has no part {part!r}.")
    return partial(_within, work.context, action)


def _within(context: Callable[[], AbstractContextManager[object]], action: Action) -> object:
    with context():
        return action()


def operator_shares(action: Action, device: torch.device, runs: int = 3) -> dict[str, float]:
    """Return the share of the time that each operator took itself, the greatest first.

    On a CPU the time is that of the whole action, the interpreter's part included (under the name
    ``python``); on a CUDA device it is that of the kernels.
    """
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    action()
    synchronize(device)
    with profile(activities=activities) as profiler:
        for _ in range(runs):
            with record_function(_PROFILED_NAME):
                action()
        synchronize(device)
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        times["python" if event.key == _PROFILED_NAME else event.key] = float(own)
    total = sum(times.values()) or 1.0
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return {name: time / total for name, time in ordered}


def product_share(shares: dict[str, float]) -> float:
    """Return the share of transforms and matrix products together, 0 to 1."""
    return sum(part for name, part in shares.items() if name.startswith((*TRANSFORMS, *PRODUCTS)))


def largest(shares: dict[str, float]) -> dict[str, float]:
    """Return the operators that matter, rounded, for a report."""
    return {name: round(share, 4) for name, share in list(shares.items())[:_LISTED]}


def unavailable(backends: Sequence[str], device: torch.device) -> dict[str, str]:
    """Return the reason for each of `backends` that cannot run on a device."""
    with redirect_stdout(sys.stderr):
        reasons = {name: reason_against(name, device) for name in backends if name in NAMES}
        if COMPILED in backends:
            reasons[COMPILED] = _reason_against_compiling(device)
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason_against_compiling(device: torch.device) -> str | None:
    """Compile a tiny function: only a trial shows whether the compilers work."""
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:  # compilers raise many kinds
        return f"torch.compile fails: {str(error).strip().partition(chr(10))[0]}"
    return None


def selectable(benchmark: str) -> tuple[str, ...]:
    """Return the choices of a benchmark's ``--backends``."""
    return ("torch", COMPILED, REFERENCE) if benchmark == "step" else (AUTO, *NAMES, REFERENCE)


def _row(cell: Cell, **values: Any) -> Row:
    return Row(**asdict(cell), **values)
