"""Importing JAX beside PyTorch, quietly, and keeping what it compiles."""

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

from mads4.errors import UserError

PACKAGES = ("jaxmarl", "jax")
INSTALL = "pip install 'mads4[smax]' (from a checkout pip install -e '.[smax]')"
UPGRADE = "pip install --upgrade 'jaxmarl>=0.2,<0.3' jax flax"
"""What brings packages together that are all there and do not fit."""


def missing() -> str | None:
    """Return which of `PACKAGES` is not there and how to get it, None if all are; none is imported.

    That a package is there does not mean that it can be imported: `import_jax` tells.
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
    """Import JAX for the processor, on which it does not compete with PyTorch for a GPU's memory.

    Returns:
        The modules `jax`, jaxmarl's `smax` and jaxmarl's `heuristic_enemy`.

    Raises:
        UserError: one of them is missing, or they do not fit together.
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
    except Exception as error:  # an unfitting jax gives AttributeError and whatever else
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        mend = f"{_versions()}, which may not fit together: {UPGRADE}"
        if isinstance(error, ModuleNotFoundError):
            mend = f"{error.name} is missing: {INSTALL}"
        raise UserError(
            f"env=smax needs jaxmarl, which cannot be imported ({said}); {mend}."
        ) from error
    return jax, smax, heuristic_enemy


def _versions() -> str:
    """Return which versions of `PACKAGES` are installed, in words."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} of unknown version")
    return f"installed are {' and '.join(found)}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Write nothing to the console: jaxmarl prints while it is imported.

    One of its modules redirects and then "restores" both streams from the interpreter's originals,
    whatever they were before; these are therefore replaced, too, and everything is put back.
    """
    silent, original = io.StringIO(), sys.__stdout__
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(sys.stderr):
        sys.__stdout__ = silent  # type: ignore[misc,assignment]
        try:
            yield
        finally:
            sys.__stdout__ = original  # type: ignore[misc]


def keep_programs(jax: Any) -> None:
    """Let compiled programs be kept on disk, unless the user has said where, or cannot write.

    Programs are made for one processor: machines that share a home folder keep theirs apart.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = home / "mads4" / "jax" / (platform.node() or "here")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
