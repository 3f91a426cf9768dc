"""Importing JAX and jaxmarl next to PyTorch, and caching compiled programs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mads4.errors import UserError, first_line

PACKAGES = ("jaxmarl", "jax")
INSTALL = "pip install 'mads4[smax]' (from a checkout pip install -e '.[smax]')"
UPGRADE = "pip install --upgrade 'jaxmarl>=0.2,<0.3' jax flax"
"""The fix for installed packages with incompatible versions."""


def missing() -> str | None:
    """Return which of `PACKAGES` are missing and how to install them, None if none are.

    The packages are located, not imported: `import_jax` may still fail.
    """
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return (
        f"env=smax needs {' and '.join(PACKAGES)}; {' and '.join(absent)} {verb} missing: "
        f"{INSTALL}; jaxmarl needs Python 3.11 or newer"
    )


def import_jax() -> tuple[Any, Any, Any]:
    """Import JAX on the CPU, where it does not compete with PyTorch for a GPU's memory.

    Returns:
        The modules `jax`, jaxmarl's `smax` and jaxmarl's `heuristic_enemy`.

    Raises:
        UserError: one of them is missing, or their versions are incompatible.
    """
    if absent := missing():
        raise UserError(f"{absent}.")
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        with _silence():
            import jax
            import jaxmarl.environments.smax as smax
            from jaxmarl.environments.smax import heuristic_enemy
    except Exception as error:  # an incompatible jax raises AttributeError, among others
        versions = " and ".join(f"{name} {_version(name)}" for name in PACKAGES)
        fix = f"installed are {versions}, which may be incompatible: {UPGRADE}"
        if isinstance(error, ModuleNotFoundError):
            fix = f"{error.name} is missing: {INSTALL}"
        raise UserError(
            f"env=smax needs jaxmarl, which cannot be imported ({first_line(error)}); {fix}."
        ) from error
    return jax, smax, heuristic_enemy


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress output: jaxmarl prints while it is imported.

    One of its modules redirects both streams and then "restores" the interpreter's originals,
    whatever they were before; the originals are therefore replaced, too, and restored here.
    """
    silent, original = io.StringIO(), sys.__stdout__
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(sys.stderr):
        sys.__stdout__ = silent  # type: ignore[misc,assignment]
        try:
            yield
        finally:
            sys.__stdout__ = original  # type: ignore[misc]


def keep_programs(jax: Any) -> None:
    """Cache compiled programs on disk, unless the user has set a cache or cannot write.

    Programs are specific to a processor: machines that share a home folder use separate caches.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = home / "mads4" / "jax" / (platform.node() or "here")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
