"""`mads4 doctor`: what is installed and what this machine offers."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import sys

from mads4.errors import UserError


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 doctor`; the exit code is 1 when something that is needed is missing."""
    argparse.ArgumentParser(prog=f"mads4 {command}", description=__doc__).parse_args(argv)
    lines = [
        f"python {platform.python_version()} on {platform.platform()}",
        f"cpu cores: {os.cpu_count()}",
    ]
    missing = []
    for requirement in _requirements():
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name}: MISSING; pip install '{requirement}'")
    if not any(line.startswith("torch:") for line in missing):
        lines += _torch()
    sys.stdout.write("\n".join([*lines, *missing, "nothing is missing" * (not missing)]) + "\n")
    return 1 if missing else 0


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("mads4") or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError("mads4 runs from its sources but is not installed: pip install .") from None


def _torch() -> list[str]:
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [
        f"torch threads: {torch.get_num_threads()}",
        f"cuda devices: {', '.join(devices) or 'none'}",
    ]
