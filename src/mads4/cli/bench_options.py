"""The options of `mads4 bench`, their defaults and what is wrong with a value."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mads4.errors import did_you_mean

_SUMMARIES = {
    "kernels": "impulse responses, from parameters to taps",
    "layer": "S4 layers and blocks over whole sequences, kernel included",
    "step": "single time steps of a layer and of three blocks, without gradients",
}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "kernels": {"lengths": [50, 500, 2000], "batch": [1]},
    "layer": {"lengths": [50, 500], "batch": [32]},
    "step": {"lengths": [1], "batch": [1, 2, 32, 64]},
    "": {"channels": 96, "state": 96, "repeats": 7, "min_seconds": 0.3, "control": 2048},
}
_QUICK: dict[str, dict[str, Any]] = {
    "kernels": {"lengths": [16, 64], "batch": [1]},
    "layer": {"lengths": [16, 64], "batch": [2]},
    "step": {"lengths": [1], "batch": [1, 2]},
    "": {"channels": 4, "state": 8, "repeats": 2, "min_seconds": 0.0, "control": 256},
}
"""Sizes at which figures mean little but everything runs, in a few seconds."""


def parse(command: str, argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, defaults filled in.

    Raises:
        SystemExit: After a message to the user (argparse).
    """
    args = _parser(command).parse_args(argv)
    defaults = _QUICK if args.quick else _DEFAULTS
    for name, value in {**defaults[""], **defaults[args.benchmark]}.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    args.out = args.out or Path("outputs", "bench", args.benchmark)
    return args


def _parser(command: str) -> argparse.ArgumentParser:
    from mads4.bench.suite import selectable

    parser = argparse.ArgumentParser(
        prog=f"mads4 {command}",
        description="Time and peak memory, per backend and size, beside plain formulas and a "
        "matrix product timed in the same run: text, <out>.csv, <out>.json and a plot, <out>.png.",
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="benchmark")
    for name, summary in _SUMMARIES.items():
        one = benchmarks.add_parser(name, help=summary, description=f"Measure {summary}.")
        if name != "step":
            _add(one, "--lengths", _numbers(1), "L,…", "sequence lengths", name)
        if name != "kernels":
            _add(one, "--batch", _numbers(1), "B,…", "sequences at once", name)
        allowed = selectable(name)
        one.add_argument(
            "--backends",
            type=_names(allowed),
            metavar="NAME,…",
            help=f"of {', '.join(allowed)}; default: all that make sense",
        )
        _add_common(one)
    return parser


def _add(
    parser: argparse.ArgumentParser,
    option: str,
    read: Callable[[str], Any],
    metavar: str,
    words: str,
    group: str = "",
) -> None:
    """Add an option with a default of its own under ``--quick``."""
    name = option.lstrip("-").replace("-", "_")
    shown, quick = (
        ",".join(map(str, value)) if isinstance(value, list) else value
        for value in (_DEFAULTS[group][name], _QUICK[group][name])
    )
    text = f"{words} (default {shown}; with --quick {quick})"
    parser.add_argument(option, type=read, metavar=metavar, help=text)


def _add_common(parser: argparse.ArgumentParser) -> None:
    from mads4.nn.ssm import PARAMETERISATIONS

    _add(parser, "--channels", _number(1), "H", "channels")
    _add(parser, "--state", _even, "N", "real states per channel, even")
    parser.add_argument(
        "--parameterisations",
        type=_names(PARAMETERISATIONS),
        default=list(PARAMETERISATIONS),
        metavar="NAME,…",
        help=f"of {', '.join(PARAMETERISATIONS)}; default: all",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:<number>")
    parser.add_argument("--threads", type=_number(1), help="default: PyTorch's own choice")
    _add(parser, "--repeats", _number(1), "R", "timed runs, at least")
    _add(parser, "--min-seconds", _seconds, "S", "go on with timed runs for that long")
    parser.add_argument(
        "--max-seconds",
        type=_seconds,
        default=3.0,
        metavar="S",
        help="but not after that long, once there are two (default 3)",
    )
    parser.add_argument(
        "--reference-memory",
        type=_number(1),
        default=4096,
        metavar="MIB",
        help="leave out plain formulas that would need more (default 4096)",
    )
    _add(parser, "--control", _number(1), "SIZE", "rows of the control's matrices")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--out", type=Path, help="default: outputs/bench/<benchmark>")


def _number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; at least {least} is needed")
        return value

    return read


def _numbers(least: int) -> Callable[[str], list[int]]:
    one = _number(least)
    return lambda text: sorted({one(part) for part in text.split(",")})


def _even(text: str) -> int:
    value = _number(2)(text)
    if value % 2:
        raise argparse.ArgumentTypeError(f"{value} is odd; states come in conjugate pairs")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def _names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = list(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(
                    f"there is no {name!r}; allowed: {', '.join(allowed)}."
                    f"{did_you_mean(name, allowed)}"
                )
        return names

    return read
