"""Optional packages: what needs each of them, whether it is installed, and how to install it.

Needs only the standard library, so that `mads4 doctor` works whatever is missing.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from mads4.errors import first_line


class Package(NamedTuple):
    """An optional package: the setting that needs it, and how to install it."""

    setting: str
    install: str


_SMAX = "pip install 'mads4[smax]' (Python 3.11 or newer; in a checkout pip install -e '.[smax]')"
_SMAC = 'pip install "protobuf<3.21" "tensorboard<2.21" "git+https://github.com/oxwhirl/smac.git"'
PACKAGES = {
    "pykeops": Package("kernel=keops", "pip install 'mads4[keops]'"),
    "triton": Package("kernel=cuda", "comes with PyTorch's CUDA builds"),
    "jaxmarl": Package("env=smax", _SMAX),
    "jax": Package("env=smax", _SMAX),
    "smac": Package("env=smac", _SMAC),
    "smaclite": Package(
        "env=smaclite", "pip install git+https://github.com/uoe-agents/smaclite.git"
    ),
}


def missing(setting: str) -> str | None:
    """Return which packages a setting lacks and how to install them, None if it lacks none.

    The packages are located, not imported: importing them may still fail.
    """
    needed = [name for name, package in PACKAGES.items() if package.setting == setting]
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {verb} missing: {PACKAGES[absent[0]].install}"


def import_problem(name: str, error: Exception) -> str:
    """Return why an installed package fails to import, and the fix."""
    install = PACKAGES[name].install
    if isinstance(error, ModuleNotFoundError):
        return f"package {error.name}, which {name} needs, is missing: {install}"
    return f"the package {name} cannot be imported ({first_line(error)}): {install}"
