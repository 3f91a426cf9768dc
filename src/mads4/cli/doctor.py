"""`mads4 doctor`: what is installed, what this machine offers, and whether it computes right."""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import sys
from dataclasses import asdict
from typing import Any

from mads4 import __version__
from mads4.cli import installation
from mads4.cli.doctor_text import report
from mads4.io import json_safe

Facts = dict[str, Any]
"""Plain values, fit for JSON."""

SLOW_MILLISECONDS = 5000.0
"""A backend whose self-test takes longer has most likely been compiling."""


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 doctor`; the exit code is 1 when something needed is missing or computes wrong."""
    parser = argparse.ArgumentParser(prog=f"mads4 {command}", description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--no-selftest", action="store_true", help="leave the self-test out")
    args = parser.parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # backends announce there what they compile
        facts = json_safe(examine(selftest=not args.no_selftest))
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, allow_nan=False) + "\n")
    else:
        sys.stdout.write(report(facts, shutil.get_terminal_size().columns))
    return 0 if facts["ok"] else 1


def examine(selftest: bool = True) -> Facts:
    """Return everything that `mads4 doctor` says, as plain values.

    Args:
        selftest: Whether to compare the kernel backends with plain formulas, too.
    """
    packages = installation.required_packages()
    facts: Facts = {
        "versions": {"mads4": __version__, "python": platform.python_version()},
        "packages": packages,
        "optional": installation.optional_packages(),
        "machine": installation.machine(),
        "compiler": installation.compiler(),
        "caches": installation.caches(),
        "starcraft": installation.starcraft(),
        "cuda": None,
        "kernels": [],
        "selftest": None,
    }
    problems = [entry["problem"] for entry in packages.values() if entry["problem"]]
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        problems.append(f"PyTorch cannot be imported: {error}")
    else:
        facts["cuda"] = installation.cuda()
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        facts["kernels"] = [kernels(device) for device in devices]
        problems += [
            f"kernel=auto finds no backend on {found['device']}: {found['auto']['reason']}"
            for found in facts["kernels"]
            if found["auto"]["backend"] is None
        ]
        if selftest:
            facts["selftest"] = self_test(facts["kernels"])
            problems += wrong_results(facts["selftest"])
    return facts | {"problems": problems, "notes": notes(facts), "ok": not problems}


def kernels(device: str) -> Facts:
    """Return what speaks against each kernel backend on a device, and which `auto` takes."""
    from mads4.kernels.backends import AUTO, NAMES, choose

    against = {name: _reason_against(name, device) for name in NAMES}
    auto: Facts
    try:
        choice = choose(AUTO, device)
        auto = {"backend": choice.backend.name, "reason": choice.reason}
    except Exception as error:  # auto asks the same probes
        auto = {"backend": None, "reason": _failed_probe(error)}
    return {"device": device, "against": against, "auto": auto}


def _reason_against(name: str, device: str) -> str | None:
    from mads4.kernels.backends import reason_against

    _announce(f"probing {name} on {device}", name)
    try:
        return reason_against(name, device)
    except Exception as error:  # a broken probe is itself the finding
        return _failed_probe(error)


def _failed_probe(error: Exception) -> str:
    return f"its probe failed: {type(error).__name__}: {error}"


def _announce(what: str, backend: str) -> None:
    """Announce what may take a while: backends other than torch compile at first use."""
    if backend != "torch" and sys.stderr.isatty():
        sys.stderr.write(f"{what}; the very first time it compiles, which may take minutes ...\n")


def self_test(devices: list[Facts]) -> list[Facts]:
    """Compare every backend that can run, on every device, with plain formulas.

    Args:
        devices: From `kernels`.

    Returns:
        One entry per backend, device, operation and precision, see `mads4.kernels.selftest.Check`.
    """
    import torch

    from mads4.kernels.backends import choose
    from mads4.kernels.selftest import check

    results = []
    for facts in devices:
        device = facts["device"]
        for name in (name for name, against in facts["against"].items() if against is None):
            _announce(f"testing {name} on {device}", name)
            backend = choose(name, device).backend
            for dtype in (torch.float64, torch.float32):
                results += [
                    {"backend": name, "device": device, **asdict(found), "passed": found.passed}
                    for found in check(backend, device, dtype)
                ]
    return results


def wrong_results(results: list[Facts]) -> list[str]:
    """Return one sentence per backend and device that does not compute what it should."""
    wrong: dict[tuple[str, str], list[str]] = {}
    for row in results:
        if not row["passed"]:
            what = f"{row['operation']} in {row['dtype']}"
            what += f" ({row['failure']})" if row["failure"] else ""
            wrong.setdefault((row["backend"], row["device"]), []).append(what)
    return [
        f"the {name} backend does not compute right on {device}: {', '.join(what)}. "
        "Take another one by kernel=<name>."
        for (name, device), what in wrong.items()
    ]


def notes(facts: Facts) -> list[str]:
    """Return what hinders nothing yet, or explains what one sees."""
    found = [
        f"{place['what']} cannot be written to {place['path']}: {place['against']}. "
        f"Set {place['variable']} to another folder."
        for place in facts["caches"]
        if place["against"]
    ]
    spent: dict[str, float] = {}
    for row in facts["selftest"] or []:
        spent[row["backend"]] = spent.get(row["backend"], 0.0) + row["milliseconds"]
    found += [
        f"the self-test of {name} took {total / 1e3:.0f} s: at first use it compiles, "
        "and keeps the result for the next time."
        for name, total in spent.items()
        if total > SLOW_MILLISECONDS
    ]
    return found
