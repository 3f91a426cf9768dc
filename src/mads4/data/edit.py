"""New data sets from those there are: merged, split, filtered. Nothing is held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mads4.data.dataset import DatasetHeader, EpisodeTable
from mads4.data.formats import Source, open_source
from mads4.data.store import read_header
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode, IntArray

FORMAT = "edited"


@dataclass(frozen=True)
class Stored:
    """A data set file, opened for one pass over its episodes."""

    path: Path
    header: DatasetHeader
    source: Source

    def identity(self) -> dict[str, Any]:
        """Return what a descendant says about this parent, as JSON values."""
        header = self.header
        return {
            "name": header.name,
            "fingerprint": header.fingerprint,
            "episodes": len(header),
            "behavior": _condensed(header.behavior),
        }


def open_stored(path: Path | str) -> Stored:
    """Open a data set file.

    Raises:
        UserError: it is missing, damaged, or no file of ours.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; this works on data set files. "
            f"Make one with: mads4 data convert {path} <name>.h5"
        )
    return Stored(path, read_header(path), open_source("hdf5", path))


@dataclass
class Edited:
    """Some episodes of one or several data sets, as a `Source`."""

    name: str
    spec: EnvSpec
    origin: Mapping[str, Any]
    parts: Sequence[tuple[Source, IntArray]]
    """Each parent with its episodes' numbers, ascending."""
    files: tuple[Path, ...] = field(init=False)
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name all files of the parents, sorted."""
        self.files = tuple(sorted({path for parent, _ in self.parts for path in parent.files}))

    def __len__(self) -> int:
        """Return the number of episodes."""
        return sum(len(numbers) for _, numbers in self.parts)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes in the parents' order.

        Parents are read to their end, where what is damaged in them comes to light.
        """
        for parent, numbers in self.parts:
            wanted = set(numbers.tolist())
            for number, episode in enumerate(parent.episodes()):
                if number in wanted:
                    yield episode


def keep(parent: Stored, episodes: IntArray, operation: Mapping[str, Any]) -> Edited:
    """Return some episodes of a data set, in its order.

    Args:
        parent: the data set.
        episodes: (K,) their numbers, each once.
        operation: what chose them, as JSON values.

    Raises:
        UserError: no episode is left.
    """
    if len(episodes) == 0:
        raise UserError(f"No episode of {parent.path} is left ({_said(operation)}).")
    return Edited(
        name="",
        spec=parent.header.spec,
        origin=_origin([parent], operation),
        parts=[(parent.source, np.sort(episodes))],
    )


def merge(parents: Sequence[Stored]) -> Edited:
    """Return all episodes of several data sets, one after another.

    Raises:
        UserError: they differ in specification or reward definition, one is given twice, or there
            is only one.
    """
    if len(parents) < 2:
        raise UserError(
            "merge takes two or more data set files, and then the one to write, for example: "
            "mads4 data merge a.h5 b.h5 both.h5"
        )
    first = parents[0]
    seen: dict[str, Path] = {}
    for parent in parents:
        wrong = first.header.spec.differences(parent.header.spec)
        if wrong:
            raise UserError(
                f"{first.path} and {parent.path} cannot be merged: {'; '.join(wrong)}. Data sets "
                "of one environment, reward definition and encoding can (what a format does not "
                "tell is given to `mads4 data convert` with --env, --scenario and --reward)."
            )
        fingerprint = parent.header.fingerprint
        if fingerprint in seen:
            raise UserError(
                f"{seen[fingerprint]} and {parent.path} hold the same episodes (fingerprint "
                f"{fingerprint[:12]}…), which would count twice. Give each data set once."
            )
        seen[fingerprint] = parent.path
    return Edited(
        name="",
        spec=first.header.spec,
        origin=_origin(parents, {"name": "merge"}),
        parts=[(parent.source, np.arange(len(parent.header))) for parent in parents],
    )


def chosen(
    table: EpisodeTable,
    *,
    min_return: float | None = None,
    max_return: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    best: float | None = None,
    pct_traj: float | None = None,
) -> IntArray:
    """Return the numbers (K,) of the episodes that meet all conditions, ascending.

    Args:
        table: the data set's episodes.
        min_return: least return.
        max_return: greatest return.
        min_length: least number of steps.
        max_length: greatest number of steps.
        best: share of the *episodes* to keep, those with the highest returns, in (0, 1]; of those
            that meet the bounds.
        pct_traj: share of the *steps* to keep, in the episodes with the highest returns, in
            (0, 1]: episodes are taken from the best on while they fit, but at least one. This is
            what the option of this name in Decision Transformer (Chen et al. 2021) does.

    Of episodes with equal returns the later ones are taken first.

    Raises:
        UserError: a share outside (0, 1].
    """
    for name, share in (("best", best), ("pct_traj", pct_traj)):
        if share is not None and not 0.0 < share <= 1.0:
            raise UserError(f"{name} is a share in (0, 1], for example 0.1; got {share}.")
    returns, lengths = table.episode_return, table.length
    fine = np.ones(len(lengths), bool)
    for values, low, high in (
        (returns, min_return, max_return),
        (lengths, min_length, max_length),
    ):
        fine &= values >= (-np.inf if low is None else low)
        fine &= values <= (np.inf if high is None else high)
    left = np.flatnonzero(fine)
    if best is not None:
        order = np.argsort(returns[left], kind="stable")[::-1]
        left = left[order[: max(1, round(best * len(left)))]]
    if pct_traj is not None:
        order = np.argsort(returns[left], kind="stable")[::-1]
        steps = np.cumsum(lengths[left][order])
        room = int(pct_traj * lengths[left].sum())
        left = left[order[: max(1, int((steps <= room).sum()))]]
    return np.sort(left)


def divided(count: int, parts: Sequence[float | int], seed: int) -> list[IntArray]:
    """Return the numbers of the episodes in each of several random, disjoint parts, ascending.

    Args:
        count: episodes in all.
        parts: for each part a number of episodes (int), or a share of all (float in (0, 1)).
        seed: decides who goes where.

    Raises:
        UserError: a part that is empty or no share, more episodes than there are, or a negative
            seed.
    """
    for part in parts:
        if isinstance(part, float) and not 0.0 < part < 1.0:
            raise UserError(f"A share of the episodes lies between 0 and 1, got {part}.")
        if isinstance(part, int) and part < 1:
            raise UserError(f"A part has at least one episode, got {part}.")
    ends = [0]
    exact = 0.0
    for part in parts:
        exact += part * count if isinstance(part, float) else part
        ends.append(round(exact))
    if ends[-1] > count:
        raise UserError(
            f"The parts {_words(parts)} want {ends[-1]} episodes, the data set has {count}."
        )
    if seed < 0:
        raise UserError(f"The seed is a whole number >= 0, got {seed}.")
    order = np.random.default_rng(seed).permutation(count)
    found: list[IntArray] = [np.sort(order[a:b]) for a, b in pairwise(ends)]
    if any(len(part) == 0 for part in found):
        raise UserError(f"Of {count} episodes some of the parts {_words(parts)} would be empty.")
    return found


def _origin(parents: Sequence[Stored], operation: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an edited data set came about; what all parents agree upon is passed on."""
    behaviors = [parent.header.behavior for parent in parents]
    shared = {
        key: behaviors[0][key]
        for key in ("name", "quality", "env", "license")
        if key in behaviors[0] and all(b.get(key) == behaviors[0][key] for b in behaviors)
    }
    return shared | {
        "format": FORMAT,
        "reader_version": 1,
        "operation": dict(operation),
        "parents": [parent.identity() for parent in parents],
    }


def _condensed(behavior: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parent's origin without the lists that only the parent itself needs."""
    kept = {key: value for key, value in behavior.items() if key != "skipped"}
    if isinstance(kept.get("source"), Mapping):
        kept["source"] = {key: value for key, value in kept["source"].items() if key != "files"}
    return kept


def _said(operation: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in operation.items() if value is not None)


def _words(parts: Sequence[float | int]) -> str:
    return ", ".join(f"{part:g}" for part in parts)
