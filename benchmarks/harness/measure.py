"""Wall-clock time of a function: warm-up, repeats, medians and spread."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

Action = Callable[[], object]

_WARM_UP_RUNS = 3
_FEWEST_RUNS = 2


@dataclass(frozen=True)
class Effort:
    """How long one cell is timed."""

    repeats: int = 7
    """Timed runs, at least."""
    min_seconds: float = 0.3
    """Timed runs go on until they have taken this long together."""
    max_seconds: float = 3.0
    """Timed runs end once they have taken this long, though never before the second."""


@dataclass(frozen=True)
class Timing:
    """Times of single runs in milliseconds."""

    milliseconds: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """Return the time that `share` of the runs stayed below."""
        return float(np.quantile(self.milliseconds, share))

    @property
    def median(self) -> float:
        """The middle of all runs."""
        return self.quantile(0.5)

    @property
    def minimum(self) -> float:
        """The fastest run."""
        return min(self.milliseconds)

    @property
    def runs(self) -> int:
        """How many runs were timed."""
        return len(self.milliseconds)


def measure_time(action: Action, effort: Effort, device: torch.device) -> Timing:
    """Time `action` until both limits of `effort` are met, or its longest time is over.

    Warm-up runs come first and do not count: they fill caches, compile kernels and plan transforms.
    Garbage collection is off while the clock runs, and a CUDA device is waited for on both sides.
    """
    with _without_garbage_collection():
        _warm_up(action, effort, device)
        times: list[float] = []
        total = 0.0
        while not _enough(len(times), total, effort):
            times.append(_seconds(action, device))
            total += times[-1]
    return Timing(tuple(1e3 * seconds for seconds in times))


def _warm_up(action: Action, effort: Effort, device: torch.device) -> None:
    spent = 0.0
    for _ in range(_WARM_UP_RUNS):
        spent += _seconds(action, device)
        if spent > effort.min_seconds:
            return


def _enough(runs: int, seconds: float, effort: Effort) -> bool:
    if runs >= effort.repeats and seconds >= effort.min_seconds:
        return True
    return runs >= min(_FEWEST_RUNS, effort.repeats) and seconds >= effort.max_seconds


def _seconds(action: Action, device: torch.device) -> float:
    """Return the time of one run; its result is freed after the clock has stopped."""
    synchronize(device)
    start = time.perf_counter()
    result = action()
    synchronize(device)
    seconds = time.perf_counter() - start
    del result
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device to finish its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Control:
    """A square float32 matrix product, the unit of relative times.

    Absolute times drift with a machine's load and clock; ratios to a product timed within the same
    second can be compared.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self._device = device
        self._factors = torch.randn(2, size, size, device=device).unbind()
        self._times: list[float] = []

    def sample(self, runs: int) -> list[float]:
        """Time the product `runs` times and return the milliseconds; a run before them warms up."""
        left, right = self._factors
        times = [1e3 * _seconds(lambda: left @ right, self._device) for _ in range(runs + 1)][1:]
        self._times += times
        return times

    @property
    def timing(self) -> Timing:
        """All runs so far, at least one."""
        if not self._times:
            self.sample(1)
        return Timing(tuple(self._times))

    def gflops(self, milliseconds: float) -> float:
        """Return the rate, in 10^9 operations per second, of a product that took so long."""
        return 2.0 * self.size**3 / milliseconds / 1e6
