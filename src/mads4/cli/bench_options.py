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
    "agents": "training steps and decisions of policies for many agents, beside a transformer",
}

_EVERY: dict[str, Any] = {"channels": 96, "state": 96, "control": 2048}
_TINY: dict[str, Any] = {"channels": 4, "state": 8, "control": 256}
_TIMES: dict[str, Any] = {"repeats": 7, "min_seconds": 0.3, "max_seconds": 3.0}
_SHORT_TIMES: dict[str, Any] = {"repeats": 3, "min_seconds": 0.1, "max_seconds": 1.0}
_NO_TIME: dict[str, Any] = {"repeats": 2, "min_seconds": 0.0, "max_seconds": 3.0}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "kernels": {"lengths": [50, 500, 2000], "batch": [1], **_TIMES},
    "layer": {"lengths": [50, 500], "batch": [32], **_TIMES},
    "step": {"lengths": [1], "batch": [1, 2, 32, 64], **_TIMES},
    "agents": {
        **{"agents": [2, 4, 8, 16], "lengths": [50, 500], "environments": [1, 32]},
        **{"steps": 1000, "max_run_seconds": 5.0, **_SHORT_TIMES},
    },
    "": _EVERY,
}
_QUICK: dict[str, dict[str, Any]] = {
    "kernels": {"lengths": [16, 64], "batch": [1], **_NO_TIME},
    "layer": {"lengths": [16, 64], "batch": [2], **_NO_TIME},
    "step": {"lengths": [1], "batch": [1, 2], **_NO_TIME},
    "agents": {
        **{"agents": [2, 3], "lengths": [4, 8], "environments": [1, 2]},
        **{"steps": 8, "max_run_seconds": 5.0, **_NO_TIME},
    },
    "": _TINY,
}
"""Sizes at which figures mean little but everything runs, in a few seconds."""

_FULL: dict[str, Any] = {
    **{"agents": [2, 4, 8, 16, 32, 64], "lengths": [50, 500, 2000], "environments": [1, 32]},
    **{"steps": 2000, "max_run_seconds": 20.0, **_TIMES},
}
"""What ``--full`` measures of the agents."""


def parse(command: str, argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, defaults filled in.

    Raises:
        SystemExit: After a message to the user (argparse).
    """
    args = _parser(command).parse_args(argv)
    defaults = _QUICK if args.quick else _DEFAULTS
    own = _FULL if getattr(args, "full", False) else defaults[args.benchmark]
    for name, value in {**defaults[""], **own}.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    args.out = args.out or Path("outputs", "bench", args.benchmark)
    return args


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"mads4 {command}",
        description="Time and peak memory, per backend and size, beside plain formulas and a "
        "matrix product timed in the same run: text, <out>.csv, <out>.json and a plot, <out>.png.",
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="benchmark")
    for name, summary in _SUMMARIES.items():
        one = benchmarks.add_parser(name, help=summary, description=f"Measure {summary}.")
        if name == "agents":
            _add_agents(one)
        else:
            _add_parts(one, name)
        _add_common(one, name)
    return parser


def _add_parts(parser: argparse.ArgumentParser, name: str) -> None:
    from mads4.bench.suite import selectable
    from mads4.nn.ssm import PARAMETERIZATIONS

    if name != "step":
        _add(parser, "--lengths", _numbers(1), "L,…", "sequence lengths", name)
    if name != "kernels":
        _add(parser, "--batch", _numbers(1), "B,…", "sequences at once", name)
    allowed = selectable(name)
    parser.add_argument(
        "--backends",
        type=_names(allowed),
        metavar="NAME,…",
        help=f"of {', '.join(allowed)}; default: all that make sense",
    )
    parser.add_argument(
        "--parameterizations",
        type=_names(PARAMETERIZATIONS),
        default=list(PARAMETERIZATIONS),
        metavar="NAME,…",
        help=f"of {', '.join(PARAMETERIZATIONS)}; default: all",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument(
        "--reference-memory",
        type=_number(1),
        default=4096,
        metavar="MIB",
        help="leave out plain formulas that would need more (default 4096)",
    )


def _add_agents(parser: argparse.ArgumentParser) -> None:
    from mads4.bench.agents import POLICIES, USUAL
    from mads4.nn.ssm import PARAMETERIZATIONS

    name = "agents"
    parser.add_argument(
        "--policies",
        type=_names(POLICIES),
        default=list(USUAL),
        metavar="NAME,…",
        help="what agents hand on, <message>[-previous][+action] (-previous: read a step later; "
        f"+action: with the action taken), and transformers: of {', '.join(POLICIES)}; "
        f"default: {', '.join(USUAL)}",
    )
    _add(parser, "--agents", _numbers(1), "n,…", "agents", name)
    _add(parser, "--lengths", _numbers(1), "T,…", "steps of a trajectory", name)
    words = "environment steps of a training batch: as many trajectories as that makes"
    _add(parser, "--steps", _number(1), "STEPS", words, name)
    _add(parser, "--environments", _numbers(1), "B,…", "environments decided for at once", name)
    words = "leave out training steps expected to take longer"
    _add(parser, "--max-run-seconds", _seconds, "S", words, name)
    parser.add_argument(
        "--max-memory",
        type=_number(1),
        default=6144,
        metavar="MIB",
        help="leave out what is expected to need more (default 6144)",
    )
    parser.add_argument(
        "--parameterization", choices=PARAMETERIZATIONS, default=PARAMETERIZATIONS[0]
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="2 to 64 agents, up to 2000 steps, in place of a few minutes' worth",
    )


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


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    _add(parser, "--channels", _number(1), "H", "channels")
    _add(parser, "--state", _even, "N", "real states per channel, even")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:<number>")
    parser.add_argument("--threads", type=_number(1), help="default: PyTorch's own choice")
    _add(parser, "--repeats", _number(1), "R", "timed runs, at least", name)
    _add(parser, "--min-seconds", _seconds, "S", "go on with timed runs for that long", name)
    words = "but not after that long, once there are two"
    _add(parser, "--max-seconds", _seconds, "S", words, name)
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
