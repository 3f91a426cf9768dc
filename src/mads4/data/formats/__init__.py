"""File formats: a module of this folder that defines ``FORMAT`` is one; see `base`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from mads4.data import registry
from mads4.data.formats.base import Format, Source
from mads4.errors import UserError, did_you_mean
from mads4.settings import bind_factory
from mads4.types import EnvSpec

__all__ = ["Format", "Source", "formats", "guess_format", "looks_like", "open_source"]


@cache
def formats() -> Mapping[str, Format]:
    """Return name → format, of all modules in this folder that define one."""
    modules = (
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    )
    return MappingProxyType(
        {
            module.__name__.rpartition(".")[2]: module.FORMAT
            for module in modules
            if isinstance(getattr(module, "FORMAT", None), Format)
        }
    )


def open_source(
    data_format: str, path: Path | str, env: EnvSpec | None = None, **options: Any
) -> Source:
    """Open data of a format.

    Args:
        data_format: a key of `formats`, or ``package.module:function``, a reader from elsewhere
            with the same signature.
        path: the file or folder.
        env: the environment that the data were recorded in; names that the format does not hold
            are taken from it, while all sizes are those of the data, for the caller to compare.
        **options: the reader's own options (``uid`` of an OG-MARL vault …).

    Raises:
        UserError: an unknown format, a reader that cannot be imported, or data that cannot be read.
    """
    if data_format in formats():
        reader: Any = formats()[data_format].open
    elif ":" in data_format:
        reader = bind_factory("data format", data_format, {}, arguments=2)
    else:
        raise UserError(
            f"There is no data format '{data_format}'; there are {', '.join(formats())}, and your "
            f"own readers as package.module:function.{did_you_mean(data_format, formats())}"
        )
    return cast(Source, reader(path, env, **options))


def guess_format(path: Path) -> str:
    """Return the format that files look like, a key of `formats`; nothing in them is run.

    Raises:
        UserError: there is nothing, or it looks like none of the formats.
    """
    if not path.exists():
        raise UserError(
            f"There is no file or folder {path}, nor a data set of that name in the registry "
            f"(mads4 data list).{registry.near(str(path))}"
        )
    found = looks_like(path)
    if found is None:
        known = "; ".join(f"{entry.looks} ({name})" for name, entry in formats().items())
        raise UserError(
            f"{path} looks like none of the known formats: {known}. Choose one with --from."
        )
    return found


def looks_like(path: Path) -> str | None:
    """Return the format that a file or folder looks like, None if it is none of them."""
    try:
        return next((name for name, entry in formats().items() if entry.matches(path)), None)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
