"""Converting data of any format to one file of ours, which records where they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from mads4.data.content import MisfitError
from mads4.data.dataset import DatasetHeader
from mads4.data.files import described_aside
from mads4.data.formats import Source
from mads4.data.store import write_dataset
from mads4.errors import UserError
from mads4.types import Episode

Progress = Callable[[int, str], None]
"""Called with the number of episodes written and a few words on how it goes."""

SHOWN = 20
"""So many skipped episodes, and reasons, are named one by one."""


def convert(
    source: Source,
    path: Path | str,
    *,
    limit: int | None = None,
    name: str = "",
    about: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> DatasetHeader:
    """Write a source's episodes to a data set file, one episode in memory at a time.

    The header's ``behavior`` then holds the source's own origin (``format``,
    ``reader_version`` …), `about`, and

    * ``source``: names, sizes and SHA-256 of the files (`mads4.data.files.describe`), hashed in
      a thread alongside, which reads every file a second time;
    * ``reward_definition``; ``limit``; ``skipped``: how many episodes were left out, and why.

    Args:
        source: what to convert.
        path: the HDF5 file; it appears complete or not at all.
        limit: take only that many episodes, the first.
        name: name of the data set; the source's own when empty.
        about: further facts on the origin, as JSON values.
        on_progress: called after every episode.

    Raises:
        UserError: what is wrong with the source; no episode is left; the file cannot be
            written.
    """
    if limit is not None and limit < 1:
        raise UserError(f"A data set needs at least one episode, got the limit {limit}.")
    with described_aside(source.files) as describe, _naming(source):
        return write_dataset(
            path,
            source.spec,
            _counted(source, limit, on_progress or (lambda done, words: None)),
            lambda: {
                **source.origin,
                **(about or {}),
                "source": describe(),
                "reward_definition": source.spec.reward,
                "limit": limit,
                "skipped": skipped_summary(source.skipped),
            },
            name or source.name,
        )


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Name the data whose episode cannot be stored."""
    try:
        yield
    except MisfitError as error:
        where = source.files[0].parent if source.files else source.name
        raise UserError(f"{where}: {error}") from error


def skipped_summary(skipped: Mapping[str, str]) -> dict[str, Any]:
    """Return how many episodes were left out for which reason, and the first of them by name."""
    return {
        "episodes": len(skipped),
        "reasons": dict(Counter(skipped.values()).most_common(SHOWN)),
        "first": dict(islice(skipped.items(), SHOWN)),
    }


def _counted(source: Source, limit: int | None, on_progress: Progress) -> Iterator[Episode]:
    """Yield the first episodes, report each, and raise with the reasons when there is none."""
    done = 0
    for episode in islice(source.episodes(), limit):
        yield episode
        done += 1
        left_out = len(source.skipped)
        on_progress(done, f"episodes, {left_out} skipped" if left_out else "episodes")
    if not done:
        reasons = skipped_summary(source.skipped)["reasons"]
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        raise UserError(f"No episode of {source.name} can be used: {why or 'it holds none'}.")
