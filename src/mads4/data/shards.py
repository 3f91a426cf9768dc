"""The finished episodes of a recording that goes on: small data set files in one folder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mads4.data.dataset import Dataset, DatasetHeader
from mads4.data.files import locked
from mads4.data.store import read_dataset, read_header, write_dataset
from mads4.errors import UserError
from mads4.io import json_safe, write_json
from mads4.types import EnvSpec, Episode

logger = logging.getLogger(__name__)

OPEN_PARTS = 4
"""Parts held in memory while joining; neighboring parts overlap by a few episodes."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of every recorded episode."""

    spec: EnvSpec
    seed: int
    behavior: Mapping[str, Any]
    """The caller's description of the behavior and its parameters."""

    def description(self) -> dict[str, Any]:
        """Return what the data set's header says about how it was made."""
        return dict(json_safe(self.behavior)) | {"seed": self.seed}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, equal exactly when the recordings are."""
        return {"spec": self.spec.to_dict(), "behavior": self.description()}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return one line per setting that differs in `other`, a `to_dict` from elsewhere.

        The simulator's version is recorded, not compared.
        """
        mine, theirs = _flat(self.to_dict()), _flat(other)
        return [
            f"{name}: now {mine.get(name)!r}, there {theirs.get(name)!r}"
            for name in sorted(mine.keys() | theirs.keys())
            if name != "spec.version" and mine.get(name) != theirs.get(name)
        ]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{group}.{key}": item for group in values for key, item in values[group].items()}


class Parts:
    """Keeps finished episodes durably until the whole data set is written."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Name the folder: that of the data set file `path` with ``.parts`` added."""
        self.folder = path.with_name(f"{path.name}.parts")
        self._settings = settings
        self._where: dict[int, tuple[Path, int]] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, waiting for another process that records to the same place."""
        with locked(self.folder / "lock", f"records into {self.folder}"):
            yield

    def open(self) -> None:
        """Find the episodes that earlier calls have finished.

        Raises:
            UserError: when those were made with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / "settings.json"
        if record.exists():
            different = self._settings.differences(json.loads(record.read_text("utf-8")))
            if different:
                raise UserError(
                    f"{self.folder} holds episodes of an unfinished recording with other "
                    f"settings ({'; '.join(different)}). Go on with those, give another path, "
                    "or delete that folder."
                )
        else:
            write_json(record, self._settings.to_dict())
        for part in sorted(self.folder.glob("episodes-*.h5")):
            self._register(part)

    def _register(self, part: Path) -> None:
        try:
            header = read_header(part)
        except UserError as error:
            logger.warning("Its episodes will be played again: %s", error)
            part.unlink()
            return
        self._add(part, header)

    def _add(self, part: Path, header: DatasetHeader) -> None:
        for place, index in enumerate(header.table.seed.tolist()):
            self._where[index] = (part, place)

    def missing(self, episodes: int) -> list[int]:
        """Return the indices below `episodes` that no part has."""
        return [index for index in range(episodes) if index not in self._where]

    def write(self, episodes: list[Episode]) -> None:
        """Keep finished episodes, in the order of their indices, as one more part."""
        ordered = sorted(episodes, key=lambda episode: episode.seed)
        part = self.folder / f"episodes-{ordered[0].seed:07d}-{ordered[-1].seed:07d}.h5"
        description = self._settings.description()
        self._add(part, write_dataset(part, self._settings.spec, ordered, description))

    def join(self, path: Path, episodes: int, name: str) -> None:
        """Write episodes 0 to `episodes` - 1, in order, into the data set file."""

        @lru_cache(maxsize=OPEN_PARTS)
        def opened(part: Path) -> Dataset:
            return read_dataset(part)

        def ordered() -> Iterator[Episode]:
            for index in range(episodes):
                part, place = self._where[index]
                yield opened(part).episode(place)

        write_dataset(path, self._settings.spec, ordered(), self._settings.description(), name)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
