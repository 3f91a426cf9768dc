"""`mads4 doctor`: check the installation, the machine and the kernels' results."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mads4 import __version__
from mads4.cli.doctor_text import report
from mads4.envs.requirements import PACKAGES, missing
from mads4.io import json_safe
from mads4.provenance import host, version

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
    """Return everything that `mads4 doctor` reports, optionally with the kernels' self-test."""
    facts: Facts = {
        "versions": {"mads4": __version__, "python": platform.python_version()},
        "packages": required_packages(),
        "optional": optional_packages(),
        "machine": host(),
        "compiler": compiler(),
        "caches": caches(),
        "starcraft": starcraft(),
        "cuda": None,
        "kernels": [],
        "selftest": None,
    }
    problems = [entry["problem"] for entry in facts["packages"].values() if entry["problem"]]
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library cannot be loaded
        problems.append(f"PyTorch cannot be imported: {error}")
    else:
        facts["machine"]["torch_threads"] = torch.get_num_threads()
        facts["cuda"] = cuda()
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


def required_packages() -> dict[str, Facts]:
    """Return `mads4`'s requirements: the installed version, and what is wrong with it."""
    try:
        from packaging.requirements import Requirement

        entries = importlib.metadata.requires("mads4") or []
    except ImportError as error:  # also if mads4 runs from its sources, but is not installed
        name = str(error.name).partition(".")[0]
        problem = f"{name} is not installed: pip install {'.' if name == 'mads4' else name}"
        return {name: {"version": None, "needed": "", "problem": problem}}
    found: dict[str, Facts] = {}
    for wanted in map(Requirement, entries):
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        installed, problem = version(wanted.name), ""
        install = f"pip install '{wanted.name}{wanted.specifier}'"
        if installed is None:
            problem = f"{wanted.name} is missing: {install}"
        elif not wanted.specifier.contains(installed, prereleases=True):
            problem = f"{wanted.name} {installed} does not fit: {install}"
        needed = str(wanted.specifier)
        found[wanted.name] = {"version": installed, "needed": needed, "problem": problem or None}
    return found


def optional_packages() -> dict[str, Facts]:
    """Return the versions of the optional packages, and what they are for; not StarCraft's."""
    return {
        name: {"version": version(name), "use": f"needed by {package.setting}: {package.install}"}
        for name, package in PACKAGES.items()
        if not name.startswith("smac")
    }


def starcraft() -> list[Facts]:
    """Return what `env=smac` and `env=smaclite` need: what is there, and how to get the rest."""
    try:
        from mads4.envs.smac import installation
    except ImportError:  # a required package is missing
        return []
    lite = missing("env=smaclite")
    there = None if lite else version("smaclite") or "of unknown version"
    parts = [(f"env=smac: {name}", *state) for name, *state in installation.examine()]
    parts.append(("env=smaclite: smaclite", there, lite))
    return [dict(zip(("name", "found", "problem"), part, strict=True)) for part in parts]


def compiler() -> str | None:
    """Return path and version of the C++ compiler, $CXX first; None without one."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        return None
    command = [path, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path}: does not run: {error}"
    return f"{path}: {done.stdout.partition(chr(10))[0]}"


def cuda() -> str:
    """Return the devices that PyTorch sees, and the CUDA version that it was built for."""
    import torch

    if not torch.version.cuda:
        return "none; this PyTorch is built without it"
    devices = [
        f"{found.name} ({found.total_memory / 2**30:.1f} GiB, "
        f"compute capability {found.major}.{found.minor})"
        for found in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]
    return f"{', '.join(devices) or 'no device'}; PyTorch is built for CUDA {torch.version.cuda}"


def caches() -> list[Facts]:
    """Return the folders for files, the variable that moves each, and why one is not writable.

    Packages that are not installed keep no files. None of them is imported: KeOps creates its
    folder, or fails to, on import.
    """
    given, places = os.environ.get, dict[tuple[str, str], Path]()
    with contextlib.suppress(ImportError):  # a required package is missing
        from mads4.data.files import data_directory

        places["data sets", "MADS4_DATA_DIR"] = data_directory()
    if keops := version("pykeops"):
        chosen = given("KEOPS_CACHE_FOLDER") or f"~/.cache/keops{keops}"
        places["KeOps", "KEOPS_CACHE_FOLDER"] = Path(chosen)
    if version("triton"):
        chosen = given("TRITON_CACHE_DIR") or f"{given('TRITON_HOME') or '~'}/.triton/cache"
        places["Triton", "TRITON_CACHE_DIR"] = Path(chosen)
    paths = {key: path.expanduser().absolute() for key, path in places.items()}
    return [
        {"what": what, "variable": name, "path": str(path), "against": reason_against_writing(path)}
        for (what, name), path in paths.items()
    ]


def reason_against_writing(path: Path) -> str | None:
    """Return why a folder, which need not exist, is not writable; None if it is."""
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"no permission to write {nearest}"


def kernels(device: str) -> Facts:
    """Return why each kernel backend cannot run on a device, and which one `auto` selects."""
    from mads4.kernels.backends import AUTO, NAMES, choose, reason_against

    failed = "its probe failed: {}: {}"  # which is a finding itself
    against: dict[str, str | None] = {}
    auto: Facts
    for name in NAMES:
        _announce(f"probing {name} on {device}", name)
        try:
            against[name] = reason_against(name, device)
        except Exception as error:
            against[name] = failed.format(type(error).__name__, error)
    try:
        choice = choose(AUTO, device)
        auto = {"backend": choice.backend.name, "reason": choice.reason}
    except Exception as error:  # auto uses the same probes
        auto = {"backend": None, "reason": failed.format(type(error).__name__, error)}
    return {"device": device, "against": against, "auto": auto}


def _announce(what: str, backend: str) -> None:
    """Announce a possible wait: backends other than torch are compiled at first use."""
    if backend != "torch" and sys.stderr.isatty():
        sys.stderr.write(f"{what}; compilation at first use may take minutes ...\n")


def self_test(devices: list[Facts]) -> list[Facts]:
    """Compare every backend that can run with reference formulas, see `mads4.kernels.selftest`."""
    from mads4.kernels.backends import choose
    from mads4.kernels.selftest import TOLERANCES, check

    found = []
    for facts in devices:
        device = facts["device"]
        for name in (name for name, against in facts["against"].items() if against is None):
            _announce(f"testing {name} on {device}", name)
            row, backend = {"backend": name, "device": device}, choose(name, device).backend
            checks = [result for dtype in TOLERANCES for result in check(backend, device, dtype)]
            found += [row | asdict(result) | {"passed": result.passed} for result in checks]
    return found


def wrong_results(results: list[Facts]) -> list[str]:
    """Return one sentence per backend and device with wrong results."""
    wrong: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in results:
        if not row["passed"]:
            failure = f" ({row['failure']})" if row["failure"] else ""
            what = f"{row['operation']} in {row['dtype']}{failure}"
            wrong[row["backend"], row["device"]].append(what)
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
    spent: defaultdict[str, float] = defaultdict(float)
    for row in facts["selftest"] or []:
        spent[row["backend"]] += row["milliseconds"]
    found += [
        f"the self-test of {name} took {total / 1e3:.0f} s: it is compiled at first use and cached "
        "for later ones."
        for name, total in spent.items()
        if total > SLOW_MILLISECONDS
    ]
    return found
