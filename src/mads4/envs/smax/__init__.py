"""StarCraft battles in jaxmarl's simulator SMAX; the only package that imports JAX."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mads4.envs import requirements
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import ENVS, EnvSettings
from mads4.envs.vector import VectorEnv
from mads4.errors import UserError, first_line
from mads4.provenance import version as package_version

UPGRADE = "pip install --upgrade 'jaxmarl>=0.2,<0.3' jax flax"
"""The fix for installed packages with incompatible versions."""

SmaxScenario: TypeAlias = Literal[
    "3m",
    "8m",
    "25m",
    "5m_vs_6m",
    "10m_vs_11m",
    "27m_vs_30m",
    "2s3z",
    "3s5z",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "smacv2_5_units",
    "smacv2_10_units",
    "smacv2_20_units",
]
"""SMAX's battles."""


@ENVS.register("smax")
class SmaxConfig(EnvSettings):
    """StarCraft battles in jaxmarl's simulator, which runs anywhere."""

    name: Literal["smax"] = "smax"
    """Environment family."""
    scenario: SmaxScenario = "2s3z"
    """Units of both sides; _vs_ if the sides differ, smacv2 if they are drawn for every episode."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the simulator's constructor."""

    @classmethod
    def make(cls, **arguments: Any) -> MultiAgentEnv:
        """Return a new battle."""
        from mads4.envs.smax.battle import SmaxEnv

        return SmaxEnv(**arguments)

    @classmethod
    def make_many(cls, size: int, **arguments: Any) -> VectorEnv:
        """Return `size` battles that are stepped in one call."""
        from mads4.envs.smax.battle import SmaxVector

        return SmaxVector(size, **arguments)


def import_jax() -> tuple[Any, Any, Any]:
    """Import JAX on the CPU, where it does not compete with PyTorch for a GPU's memory.

    Returns:
        The modules `jax`, jaxmarl's `smax` and jaxmarl's `heuristic_enemy`.

    Raises:
        UserError: one of them is missing, or their versions are incompatible.
    """
    if absent := requirements.missing("env=smax"):
        raise UserError(f"env=smax: {absent}.")
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        with _silence():
            import jax
            import jaxmarl.environments.smax as smax
            from jaxmarl.environments.smax import heuristic_enemy
    except Exception as error:  # an incompatible jax raises AttributeError, among others
        versions = [f"{name} {package_version(name)}" for name in ("jaxmarl", "jax")]
        fix = f"installed are {' and '.join(versions)}, which may be incompatible: {UPGRADE}"
        if isinstance(error, ModuleNotFoundError):
            fix = f"{error.name} is missing: {requirements.PACKAGES['jaxmarl'].install}"
        raise UserError(
            f"env=smax needs jaxmarl, which cannot be imported ({first_line(error)}); {fix}."
        ) from error
    return jax, smax, heuristic_enemy


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
