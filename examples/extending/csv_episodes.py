"""A data format: one CSV file, a row per step of an episode, episodes one after another.

Columns: ``episode``, ``reward``, ``terminated``, ``action_<agent>`` and
``observation_<agent>_<feature>``. The state is what all agents observe, one after another; all
actions are available.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mads4.data.formats.base import names_of
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode


@dataclass
class CsvEpisodes:
    """A `mads4.data.formats.Source`."""

    name: str
    spec: EnvSpec
    origin: Mapping[str, Any]
    files: tuple[Path, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one at a time."""
        agents, features = range(self.spec.n_agents), range(self.spec.obs_dim)
        for number, steps in groupby(_rows(self.files[0]), key=lambda row: row["episode"]):
            rows = list(steps)
            seen = [
                [[row[f"observation_{i}_{k}"] for k in features] for i in agents] for row in rows
            ]
            observation = np.array(seen, dtype=np.float32)
            terminated = rows[-1]["terminated"] == "1"
            yield Episode(
                observation=observation,
                state=observation.reshape(len(rows), 1, -1),
                available_actions=np.ones((len(rows), len(agents), self.spec.n_actions), np.bool_),
                action=np.array([[row[f"action_{i}"] for i in agents] for row in rows], np.int64),
                reward=np.array([row["reward"] for row in rows], np.float32),
                terminated=terminated,
                truncated=not terminated,
                seed=int(number),
            )


def open_csv(path: Path | str, env: EnvSpec | None = None) -> CsvEpisodes:
    """Open a file; sizes are counted in it.

    Raises:
        UserError: there is no such file, or a column is missing.
    """
    path = Path(path)
    n_actions = longest = 0
    columns: list[str] = []
    for _, steps in groupby(_rows(path), key=lambda row: row["episode"]):
        rows = list(steps)
        columns = list(rows[0])
        longest = max(longest, len(rows))
        taken = [int(v) for row in rows for k, v in row.items() if k.startswith("action_")]
        n_actions = max(n_actions, 1 + max(taken))
    agents = sum(name.startswith("action_") for name in columns)
    features = sum(name.startswith("observation_0_") for name in columns)
    sizes = {"n_agents": agents, "obs_dim": features, "state_dim": agents * features}
    spec = EnvSpec(**names_of(env), **sizes, n_actions=n_actions, episode_limit=longest)
    return CsvEpisodes(path.stem, spec, {"format": "csv", "reader_version": 1}, (path,))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows by column."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for name in ("episode", "reward", "terminated", "action_0", "observation_0_0"):
            if name not in (reader.fieldnames or ()):
                raise UserError(f"{path} has no column '{name}'.")
        yield from reader
