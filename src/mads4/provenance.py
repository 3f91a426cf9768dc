"""Where a result comes from: versions, code, machine, data; enough to reproduce it.

Needs only the standard library, so that `mads4 doctor` works whatever is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mads4.types import EnvSpec

PROVENANCE_FILE = "provenance.json"
PACKAGES = ("mads4", "torch", "numpy", "hydra-core", "omegaconf", "gymnasium", "rware", "h5py")


def collect_provenance(
    *,
    seed: int | None = None,
    device: str = "cpu",
    spec: EnvSpec | None = None,
    simulator: str | None = None,
    dataset: Mapping[str, Any] | None = None,
    kernel_backend: str | None = None,
    kernel_reason: str | None = None,
) -> dict[str, Any]:
    """Return the run's origin as plain values, fit for ``provenance.json``.

    Args:
        seed: The run's seed.
        device: Where the model runs, as PyTorch names it.
        spec: The environment; its reward definition is repeated at the top level.
        simulator: Version of the environment that is played, which the data's spec cannot tell.
        dataset: ``name``, ``fingerprint`` and what else identifies the data.
        kernel_backend: The S4 kernel implementation that was chosen.
        kernel_reason: Why it was chosen, in words.
    """
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "git": _git(Path(__file__).resolve()),
        "machine": _machine(device),
        "seed": seed,
        "simulator": simulator,
        "environment": None if spec is None else spec.to_dict(),
        "reward_definition": None if spec is None else spec.reward,
        "dataset": None if dataset is None else dict(dataset),
        "kernel": {"backend": kernel_backend, "reason": kernel_reason},
    }


def version(package: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def host() -> dict[str, Any]:
    """Return system, processor and cores of this machine."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "usable_cpus": len(usable) or os.cpu_count(),
    }


def _git(source: Path) -> dict[str, Any] | None:
    """Return commit and dirty flag of the checkout that tracks `source`, or None.

    An installed package may lie inside somebody else's repository; its commit would mislead, so
    only a repository that tracks the source file counts.
    """
    if _run_git(source, "ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = _run_git(source, "rev-parse", "HEAD")
    status = _run_git(source, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else status != ""}


def _run_git(source: Path, *arguments: str) -> str | None:
    """Return git's output, None if git is missing, fails or takes too long."""
    command = ["git", "-C", str(source.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _machine(device: str) -> dict[str, Any]:
    """Return the host, device and threads that timings depend on."""
    import torch

    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return {
        **host(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else None,
        "torch_threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Return the processor's model name where the system reports it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
