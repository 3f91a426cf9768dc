"""The data set that a command line selects: a path or a registry name, and its reader's options."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mads4.data import registry
from mads4.data.formats import Source, guess_format, open_source
from mads4.data.formats.vault import METADATA
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.types import EnvSpec

_NAMES = ("name", "scenario", "reward", "state_encoding")


@dataclass(frozen=True)
class Selected:
    """A data set that has been opened."""

    path: Path
    format: str
    source: Source
    entry: registry.Entry | None
    """Its registry entry, if it was selected by name."""

    @property
    def about(self) -> dict[str, Any]:
        """Further facts for the header of a conversion."""
        if self.entry is None:
            return {}
        names = ("quality", "license")
        return {"dataset": self.entry.name} | {key: getattr(self.entry, key) for key in names}


def open_selected(args: argparse.Namespace) -> Selected:
    """Open what ``args.source`` names, with the options of `mads4.cli.data._add_source`.

    Raises:
        UserError: there is no such data set, or it cannot be opened.
    """
    given, entry = Path(args.source).expanduser(), None
    if not given.exists() and registry.known(args.source):
        entry = registry.find(args.source)
        given = registry.locate(entry)
    data_format = args.format or (entry and entry.format) or _guessed(given)
    if data_format == "hdf5":
        _refuse_names(args)
    spec = _named(args, entry)
    source = open_source(data_format, given, spec, **_options(args, entry, data_format, given))
    if spec is None and data_format != "hdf5":
        source.spec = replace(source.spec, **_names(args, entry))
    return Selected(given, data_format, source, entry)


def _guessed(path: Path) -> str:
    found = guess_format(path)
    if found != "hdf5":
        sys.stderr.write(f"{path} detected format {found}; --from overrides this\n")
    return found


def _options(
    args: argparse.Namespace, entry: registry.Entry | None, data_format: str, path: Path
) -> dict[str, Any]:
    """Return the reader's own options; those of other formats are refused."""
    given = {"uid": args.uid or (entry and entry.uid), "team_reward": args.team_reward}
    one = data_format != "og_marl" or (path / METADATA).is_file()
    if one and getattr(args, "to", None) == "og_marl":
        given["uid"] = None  # it names the recording to write
    options = {key: value for key, value in given.items() if value is not None}
    if options and data_format != "og_marl":
        raise UserError(
            f"--{next(iter(options)).replace('_', '-')} is for OG-MARL's vaults; "
            f"{args.source} is in the format {data_format}."
        )
    if data_format == "madt":
        return {"scenario": _names(args, entry).get("scenario")}
    return options


def _names(args: argparse.Namespace, entry: registry.Entry | None) -> dict[str, Any]:
    """Return the names of the environment that the command line or the registry gives."""
    known: dict[str, Any] = {} if entry is None else {"name": entry.env, "scenario": entry.scenario}
    if entry is not None:
        known["reward"] = entry.reward
    given = {key: getattr(args, "env" if key == "name" else key) for key in _NAMES}
    return known | {key: value for key, value in given.items() if value is not None}


def _refuse_names(args: argparse.Namespace) -> None:
    """Refuse names for our own files, which store them."""
    given = [key for key in ("env", *_NAMES[1:]) if getattr(args, key) is not None]
    if given:
        raise UserError(
            f"--{given[0].replace('_', '-')}: {args.source} stores this itself. If it is "
            "wrong, convert the original data again, with this option."
        )


def _named(args: argparse.Namespace, entry: registry.Entry | None) -> EnvSpec | None:
    """Return the specification of the environment that was recorded, if it is one of ours.

    Readers take from it what their formats do not hold. How rewards and states are defined is not
    taken from an environment that has a choice: the data need not follow its default.
    """
    names = _names(args, entry)
    if names.get("name") == "rware":
        arguments = {"scenario": names["scenario"]} if "scenario" in names else {}
        spec = EnvFactory("rware", arguments)().spec
        return replace(spec, **({"reward": "", "state_encoding": ""} | names))
    if names.get("name") == "matrix_game":
        return replace(EnvFactory("matrix_game", {})().spec, **({"reward": ""} | names))
    return None
