"""Command-line options that the benchmarks share, and the types of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mads4.errors import UserError, did_you_mean

DEFAULTS: dict[str, Any] = {"channels": 96, "state": 96, "control": 2048}
QUICK: dict[str, Any] = {
    **{"channels": 4, "state": 8, "control": 256},
    **{"repeats": 2, "min_seconds": 0.0, "max_seconds": 3.0},
}
"""Sizes of ``--quick``, at which figures mean little but everything runs in a few seconds."""
TIMES: dict[str, Any] = {"repeats": 7, "min_seconds": 0.3, "max_seconds": 3.0}


class Options:
    """Adds options whose default depends on ``--quick``.

    Args:
        parser: The parser to add to.
        defaults: Option → its default.
        quick: Option → its default under ``--quick``.
    """

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        defaults: Mapping[str, Any],
        quick: Mapping[str, Any],
    ) -> None:
        self.parser = parser
        self.defaults = {**DEFAULTS, **defaults}
        self.quick = {**QUICK, **quick}

    def add(self, option: str, read: Callable[[str], Any], metavar: str, description: str) -> None:
        """Add one option, both defaults in its help."""
        name = option.lstrip("-").replace("-", "_")
        usual, quick = (
            ",".join(map(str, value)) if isinstance(value, list) else value
            for value in (self.defaults[name], self.quick[name])
        )
        description += f" (default {usual}; with --quick {quick})"
        self.parser.add_argument(option, type=read, metavar=metavar, help=description)

    def add_common(self) -> None:
        """Add sizes, device, effort and output, the same for all benchmarks."""
        self.add("--channels", number(1), "H", "channels")
        self.add("--state", even, "N", "real states per channel, even")
        add = self.parser.add_argument
        add("--device", default="auto", help="auto (default), cpu, cuda, cuda:<number>")
        add("--threads", type=number(1), help="default: PyTorch's own choice")
        self.add("--repeats", number(1), "R", "fewest timed runs")
        self.add("--min-seconds", seconds, "S", "shortest time of all timed runs together")
        self.add("--max-seconds", seconds, "S", "longest time, after at least two runs")
        self.add("--control", number(1), "SIZE", "rows of the control's matrices")
        add("--quick", action="store_true", help="tiny sizes, to see whether everything runs")
        add("--out", type=Path, help="default: outputs/bench/<benchmark>")

    def fill(self, args: argparse.Namespace, **replaced: Any) -> argparse.Namespace:
        """Set the options that were not given to their defaults, `replaced` before others."""
        defaults = {**(self.quick if args.quick else self.defaults), **replaced}
        for name, value in defaults.items():
            if getattr(args, name, None) is None:
                setattr(args, name, value)
        return args


def number(least: int) -> Callable[[str], int]:
    """Return the type of a whole number that is at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; the minimum is {least}")
        return value

    return read


def numbers(least: int) -> Callable[[str], list[int]]:
    """Return the type of a comma-separated list of such numbers, sorted."""
    one = number(least)
    return lambda text: sorted({one(part) for part in text.split(",")})


def even(text: str) -> int:
    """Read an even number."""
    value = number(2)(text)
    if value % 2:
        raise argparse.ArgumentTypeError(f"{value} is odd; states come in conjugate pairs")
    return value


def seconds(text: str) -> float:
    """Read a number of seconds, which may be zero."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Return the type of a comma-separated list of allowed names, without repetitions."""

    def read(text: str) -> list[str]:
        given = list(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in given:
            if name not in allowed:
                raise argparse.ArgumentTypeError(
                    f"there is no {name!r}; allowed: {', '.join(allowed)}."
                    f"{did_you_mean(name, allowed)}"
                )
        return given

    return read


def device_of(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the first CUDA device, or the CPU.

    Raises:
        UserError: If PyTorch does not know it or does not see it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: allowed are auto, cpu, cuda and cuda:<number>.")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is not a device: {error}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices. "
            "Use --device cpu, or see `mads4 doctor`."
        )
    return device
