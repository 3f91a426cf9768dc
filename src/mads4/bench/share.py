"""How much of a computation's time its Fourier transforms and matrix products take."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mads4.bench.measure import Action, synchronize

TRANSFORMS = ("aten::_fft_",)
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::_addmm")

_ROOT = "measured"
_LISTED = 12


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
            with record_function(_ROOT):
                action()
        synchronize(device)
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        times["python" if event.key == _ROOT else event.key] = float(own)
    total = sum(times.values()) or 1.0
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return {name: time / total for name, time in ordered}


def product_share(shares: dict[str, float]) -> float:
    """Return the share of transforms and matrix products together, 0 to 1."""
    return sum(part for name, part in shares.items() if name.startswith((*TRANSFORMS, *PRODUCTS)))


def largest(shares: dict[str, float]) -> dict[str, float]:
    """Return the operators that matter, rounded, for a report."""
    return {name: round(share, 4) for name, share in list(shares.items())[:_LISTED]}
