"""What the writers of other projects' layouts have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mads4.data.content import Array, step_columns
from mads4.errors import UserError
from mads4.io import atomic_folder
from mads4.types import EnvSpec, Episode


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which appears as `path` complete or not at all.

    Raises:
        UserError: `path` exists, or cannot be written to.
    """
    if path.exists():
        raise UserError(f"{path} exists already. Delete it, or give another name.")
    try:
        with atomic_folder(path) as beside:
            yield beside
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error}. Check the folder's permissions and space."
        ) from error


def checked(
    spec: EnvSpec, episodes: Iterable[Episode]
) -> Iterator[tuple[Episode, dict[str, Array]]]:
    """Yield episodes and their step arrays as our store would keep them.

    Raises:
        UserError: an episode that does not fit `spec`, or no episode at all.
    """
    number = -1
    for number, episode in enumerate(episodes):
        yield episode, step_columns(spec, episode, number)
    if number < 0:
        raise UserError("A data set needs at least one episode; none was given.")
