"""`mads4 doctor`: check the installation, the machine and the kernels' results."""

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
"""JSON-compatible values."""

SLOW_MILLISECONDS = 5000.0
"""A backend whose self-test takes longer was most likely compiled in it."""


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 doctor`; return 1 if a requirement is missing or a result is wrong, else 0."""
    parser = argparse.ArgumentParser(prog=f"mads4 {command}", description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--no-selftest", action="store_true", help="skip the self-test")
    args = parser.parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # backends print while they compile
        facts = json_safe(examine(selftest=not args.no_selftest))
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, allow_nan=False) + "\n")
    else:
        sys.stdout.write(report(facts, shutil.get_terminal_size().columns))
    return 0 if facts["ok"] else 1


def examine(selftest: bool = True) -> Facts:
    """Return everything that `mads4 doctor` reports.

    Args:
        selftest: whether to compare the kernel backends with reference formulas.
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
    except (ImportError, OSError) as error:  # OSError: a shared library cannot be loaded
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
    """Return why each kernel backend cannot run on a device, and which one `auto` selects."""
    from mads4.kernels.backends import AUTO, NAMES, choose

    against = {name: _reason_against(name, device) for name in NAMES}
    auto: Facts
    try:
        choice = choose(AUTO, device)
        auto = {"backend": choice.backend.name, "reason": choice.reason}
    except Exception as error:  # auto uses the same probes
        auto = {"backend": None, "reason": _failed_probe(error)}
    return {"device": device, "against": against, "auto": auto}


def _reason_against(name: str, device: str) -> str | None:
    from mads4.kernels.backends import reason_against

    _announce(f"probing {name} on {device}", name)
    try:
        return reason_against(name, device)
    except Exception as error:  # a failing probe is a finding itself
        return _failed_probe(error)


def _failed_probe(error: Exception) -> str:
    return f"its probe failed: {type(error).__name__}: {error}"


def _announce(what: str, backend: str) -> None:
    """Announce a possible wait: backends other than torch are compiled at first use."""
    if backend != "torch" and sys.stderr.isatty():
        sys.stderr.write(f"{what}; compilation at first use may take minutes ...\n")


def self_test(devices: list[Facts]) -> list[Facts]:
    """Compare every available backend on every device with reference formulas.

    Args:
        devices: as returned by `kernels`.

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
    """Return one sentence per backend and device with wrong results."""
    wrong: dict[tuple[str, str], list[str]] = {}
    for row in results:
        if not row["passed"]:
            what = f"{row['operation']} in {row['dtype']}"
            what += f" ({row['failure']})" if row["failure"] else ""
            wrong.setdefault((row["backend"], row["device"]), []).append(what)
    return [
        f"the {name} backend gives wrong results on {device}: {', '.join(what)}. "
        "Select another one with kernel=<name>."
        for (name, device), what in wrong.items()
    ]


def notes(facts: Facts) -> list[str]:
    """Return warnings and explanations that are no problems."""
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
        f"the self-test of {name} took {total / 1e3:.0f} s: it is compiled at first use and cached "
        "for later ones."
        for name, total in spent.items()
        if total > SLOW_MILLISECONDS
    ]
    return found
