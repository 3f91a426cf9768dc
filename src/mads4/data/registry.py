"""Registry of published data sets: metadata, download URLs and local folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mads4.data.files import data_directory
from mads4.errors import UserError, did_you_mean

REGISTRY_FILE = "registry.yaml"


@dataclass(frozen=True)
class Entry:
    """One published data set."""

    name: str
    """``<collection>/<scenario>-<quality>``."""
    env: str
    """Environment family."""
    scenario: str
    quality: str
    """In lower case."""
    format: str
    """Key of `mads4.data.formats.formats`."""
    uid: str | None
    """What an OG-MARL vault calls the quality."""
    reward: str
    """Name of the reward definition; empty where the environment has only one."""
    episodes: int | None
    """As published; None when that is not known, as below."""
    bytes: int | None
    """Size of the archive."""
    sha256: str | None
    """Of the archive."""
    return_mean: float | None
    """As published."""
    license: str
    addresses: tuple[str, ...]
    """URLs of the archive, tried in turn; empty when the files must be copied by hand."""
    folder: str
    """Folder below ``<data directory>/sources``; the archive is unpacked there."""
    origin: str
    """Publisher."""

    @property
    def place(self) -> Path:
        """Folder of the files on this machine."""
        return data_directory() / "sources" / self.folder

    @property
    def archive(self) -> Path:
        """File that the archive is downloaded to; data sets in one archive share it."""
        suffix = Path(self.addresses[0]).suffix if self.addresses else ".zip"
        return data_directory() / "downloads" / f"{self.folder}{suffix}"

    @property
    def is_here(self) -> bool:
        """Whether the files are present (an archive is unpacked completely or not at all)."""
        return self.place.is_dir() and any(self.place.iterdir())

    def how_to_get(self) -> str:
        """Return how to obtain the files, as a sentence."""
        if self.addresses:
            return f"Get it with: mads4 data download {self.name}"
        return f"It cannot be downloaded; ask {self.origin}, and put the folder at {self.place}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the folder of the files and whether they are present."""
        return asdict(self) | {"place": str(self.place), "here": self.is_here}


@lru_cache
def entries() -> tuple[Entry, ...]:
    """Return all published data sets that are known, in the order of the registry."""
    text = (files("mads4.data") / REGISTRY_FILE).read_text(encoding="utf-8")
    return tuple(parse(yaml.safe_load(text)))


def parse(collections: dict[str, dict[str, Any]]) -> list[Entry]:
    """Return the entries that the registry's YAML describes (see the head of the file)."""
    return [
        _entry(collection, about, str(scenario), str(quality), facts)
        for collection, about in collections.items()
        for scenario, sets in about["sets"].items()
        for quality, facts in sets.items()
    ]


def _entry(
    collection: str, about: dict[str, Any], scenario: str, quality: str, facts: dict[str, Any]
) -> Entry:
    words = {"scenario": scenario, "quality": quality, "Quality": quality.title()}
    uid = about.get("uid")
    return Entry(
        name=f"{collection}/{scenario}-{quality}",
        env=about["env"],
        scenario=scenario,
        quality=quality,
        format=about["format"],
        uid=None if uid is None else uid.format(**words),
        reward=about["reward"],
        episodes=facts.get("episodes"),
        bytes=facts.get("bytes"),
        sha256=facts.get("sha256"),
        return_mean=facts.get("return"),
        license=about["license"],
        addresses=tuple(address.format(**words) for address in about["addresses"]),
        folder=about["folder"].format(**words),
        origin=about["from"],
    )


def find(name: str) -> Entry:
    """Return the data set called `name`, in whichever case.

    Raises:
        UserError: unknown name; the message suggests the nearest.
    """
    named = {entry.name.lower(): entry for entry in entries()}
    if name.lower() not in named:
        raise UserError(
            f"There is no data set '{name}' in the registry.{near(name)} "
            "All are listed by: mads4 data list"
        )
    return named[name.lower()]


def near(name: str) -> str:
    """Return `` Did you mean 'x'?`` for the nearest data set, or an empty string."""
    return did_you_mean(name.lower(), [entry.name.lower() for entry in entries()])


def known(name: str) -> bool:
    """Return whether the registry has a data set called `name`."""
    return any(entry.name.lower() == name.lower() for entry in entries())


def locate(entry: Entry) -> Path:
    """Return the path to open of a downloaded data set: its folder, or the vault in it.

    Raises:
        UserError: it is missing or incomplete; the message says what to do.
    """
    if not entry.is_here:
        raise UserError(f"The data set {entry.name} is not on this machine. {entry.how_to_get()}")
    if entry.format != "og_marl":
        return entry.place
    vaults = sorted(entry.place.rglob(f"{entry.scenario}.vlt"))
    if not vaults:
        raise UserError(
            f"{entry.place} has no folder {entry.scenario}.vlt. Delete it, and: "
            f"{entry.how_to_get()}"
        )
    return vaults[0]


def choose(data_format: str, env: str, scenario: str, quality: str) -> Entry:
    """Return the one data set in a format for an environment, a scenario and a quality.

    Raises:
        UserError: no data set matches, or several do; the message lists the alternatives.
    """
    fitting = [entry for entry in entries() if entry.format == data_format and entry.env == env]
    what = f"in the format {data_format} for env {env}"
    if not fitting:
        raise UserError(
            f"dataset.path: the registry has no data set {what}; it has some for "
            f"{_listed(e.env for e in entries() if e.format == data_format)}. "
            "Give the place of your own: dataset.path=<file or folder>."
        )
    there = [entry for entry in fitting if entry.scenario == scenario]
    if not there:
        raise UserError(
            f"dataset.path: the registry has no data set {what} and scenario {scenario}; it has "
            f"{_listed(entry.scenario for entry in fitting)}. Take one of those, or give "
            "dataset.path=<file or folder>."
        )
    chosen = [entry for entry in there if entry.quality == quality.lower()]
    if not chosen:
        raise UserError(
            f"dataset.quality: got '{quality}'; for {env} {scenario} in the format {data_format} "
            f"there are {_listed(entry.quality for entry in there)}."
        )
    if len(chosen) > 1:
        choices = " or ".join(f"dataset.path={entry.name}" for entry in chosen)
        raise UserError(
            f"dataset.path: several data sets of {env} {scenario} are called {quality}: "
            f"say which, {choices}."
        )
    return chosen[0]


def _listed(words: Iterable[str]) -> str:
    """Return the words, each once."""
    return ", ".join(dict.fromkeys(words))
