"""What is installed and what the machine offers, as plain values; needs no third-party package."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from mads4.envs.smac.installation import examine, lite

Facts = dict[str, Any]

OPTIONAL = {
    "pykeops": "needed by kernel=keops: pip install 'mads4[keops]'",
    "triton": "needed by kernel=cuda; comes with PyTorch's CUDA builds",
    "jaxmarl": "needed by env=smax: pip install 'mads4[smax]'",
    "jax": "needed by env=smax; comes with jaxmarl",
}
"""Packages that one kernel backend or environment each needs."""


def version(name: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def required_packages() -> dict[str, Facts]:
    """Return `mads4`'s requirements: the installed version, and what is wrong with it."""
    try:
        entries = importlib.metadata.requires("mads4") or []
        from packaging.requirements import Requirement
    except importlib.metadata.PackageNotFoundError:
        problem = "mads4 runs from its sources but is not installed: pip install ."
        return {"mads4": {"version": None, "needed": "", "problem": problem}}
    except ImportError:
        problem = "packaging is missing: pip install packaging"
        return {"packaging": {"version": None, "needed": "", "problem": problem}}
    found: dict[str, Facts] = {}
    for requirement in map(Requirement, entries):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, installed = requirement.name, version(requirement.name)
        problem = ""
        wanted = f"{name}{requirement.specifier}"
        if installed is None:
            problem = f"{name} is missing: pip install '{wanted}'"
        elif not requirement.specifier.contains(installed, prereleases=True):
            problem = f"{name} {installed} does not fit: pip install '{wanted}'"
        needed = str(requirement.specifier)
        found[name] = {"version": installed, "needed": needed, "problem": problem or None}
    return found


def optional_packages() -> dict[str, Facts]:
    """Return the versions of the optional packages, and what they are for."""
    return {name: {"version": version(name), "use": use} for name, use in OPTIONAL.items()}


def starcraft() -> list[Facts]:
    """Return what `env=smac` and `env=smaclite` need: what is there, and how to get the rest."""
    return [
        {"name": f"{env}: {part.name}", "found": part.found, "problem": part.problem}
        for env, parts in (("env=smac", examine()), ("env=smaclite", [lite()]))
        for part in parts
    ]


def machine() -> Facts:
    """Return system, processor, cores and threads; less where PyTorch or NumPy is missing."""
    try:
        from mads4.provenance import collect_provenance

        found: Facts = collect_provenance()["machine"]
    except (ImportError, OSError):
        return {"platform": platform.platform(), "cpu_count": os.cpu_count()}
    return {key: value for key, value in found.items() if not key.startswith("device")}


def compiler() -> Facts | None:
    """Return path and version of the C++ compiler, $CXX first; None without one."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        return None
    command = [path, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"path": path, "version": f"does not run: {error}"}
    return {"path": path, "version": done.stdout.partition("\n")[0]}


def cuda() -> Facts:
    """Return the CUDA version that PyTorch was built for, and the devices that it sees."""
    import torch

    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    devices = [
        {
            "name": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
        }
        for found in properties
    ]
    return {"version": torch.version.cuda, "devices": devices}


def caches() -> list[Facts]:
    """Return the folders for files, the variable that moves each, and why one is not writable.

    Packages that are not installed keep no files. None of them is imported: KeOps creates its
    folder, or fails to, on import.
    """
    cache, environment = Path("~/.cache").expanduser(), os.environ
    places: dict[tuple[str, str], Path | None] = {("data sets", "MADS4_DATA_DIR"): None}
    try:
        from mads4.data.directory import data_directory

        places["data sets", "MADS4_DATA_DIR"] = data_directory()
    except (ImportError, OSError):  # packages are missing
        pass
    if keops := version("pykeops"):
        chosen = environment.get("KEOPS_CACHE_FOLDER") or cache / f"keops{keops}"
        places["KeOps", "KEOPS_CACHE_FOLDER"] = Path(chosen)
    if version("triton"):
        home = Path(environment.get("TRITON_HOME") or "~").expanduser()
        chosen = environment.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"
        places["Triton", "TRITON_CACHE_DIR"] = Path(chosen)
    return [
        {
            "what": what,
            "variable": variable,
            "path": None if path is None else str(path.absolute()),
            "against": None if path is None else reason_against_writing(path.absolute()),
        }
        for (what, variable), path in places.items()
    ]


def reason_against_writing(path: Path) -> str | None:
    """Return why a folder, which need not exist, is not writable; None if it is."""
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"no permission to write {nearest}"
