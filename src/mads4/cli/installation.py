"""What is installed and what the machine offers, as plain values; needs nothing but Python."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
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
"""Packages that are needed by one kernel backend or environment each."""


def required_packages() -> dict[str, Facts]:
    """Return what `mads4` declares to need: the version there, and what is wrong with it."""
    try:
        requirements = importlib.metadata.requires("mads4") or []
    except importlib.metadata.PackageNotFoundError:
        problem = "mads4 runs from its sources but is not installed: pip install ."
        return {"mads4": {"version": None, "needed": "", "problem": problem}}
    own = (entry.partition(";")[0].strip() for entry in requirements if "extra ==" not in entry)
    return dict(_examine(entry) for entry in own)


def _examine(requirement: str) -> tuple[str, Facts]:
    """Return the name in a requirement such as ``torch>=2.4``, and what is there of it."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    needed = requirement[len(name) :].strip()
    found, problem = version(name), None
    if found is None:
        problem = f"{name} is missing: pip install '{requirement}'"
    elif not satisfies(found, needed):
        problem = f"{name} {found} does not fit: pip install '{requirement}'"
    return name, {"version": found, "needed": needed, "problem": problem}


def optional_packages() -> dict[str, Facts]:
    """Return the versions of what may be installed, and what it is for."""
    return {name: {"version": version(name), "use": use} for name, use in OPTIONAL.items()}


def version(name: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def satisfies(found: str, needed: str) -> bool:
    """Return whether a version is within bounds like ``>=1.3,<1.4``; other operators count as met.

    Only the numbers of the release count: 2.4.0rc1+cpu is 2.4.
    """
    bounds = re.findall(r"(>=|<)\s*(\d[\d.]*)", needed)
    return all((_release(found) >= _release(at)) == (sign == ">=") for sign, at in bounds)


def _release(text: str) -> tuple[int, ...]:
    """Return the leading numbers without trailing zeros."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def starcraft() -> list[Facts]:
    """Return what there is of what `env=smac` and `env=smaclite` need, and how to get the rest."""
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

    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return {"version": torch.version.cuda, "devices": devices}


def caches() -> list[Facts]:
    """Return where files are kept, which variable moves them, and why one cannot write there.

    Packages that are not installed keep no files. None of them is imported, for KeOps creates its
    folder, or fails to, when it is.
    """
    cache, environment = Path("~/.cache").expanduser(), os.environ
    places = {("data sets", "MADS4_DATA_DIR"): _data_directory()}
    keops, triton = version("pykeops"), version("triton")
    if keops:
        chosen = environment.get("KEOPS_CACHE_FOLDER") or cache / f"keops{keops}"
        places["KeOps", "KEOPS_CACHE_FOLDER"] = Path(chosen)
    if triton:
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


def _data_directory() -> Path | None:
    """Return the folder of recorded data sets; None if what it takes to say so is missing."""
    try:
        from mads4.experiment.build import data_directory
    except (ImportError, OSError):
        return None
    return data_directory()


def reason_against_writing(path: Path) -> str | None:
    """Return why nothing can be written to a folder, which need not exist; None if one can."""
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"no permission to write {nearest}"
