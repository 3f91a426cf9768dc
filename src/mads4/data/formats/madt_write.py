"""Writing episodes in MADT's layout, for programs that read that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from mads4.atomic import atomic_path
from mads4.errors import UserError
from mads4.types import Episode


def write_madt(folder: Path | str, episodes: Iterable[Episode]) -> int:
    """Write a file of nested lists for each episode, numbered in the order they come.

    All agents get the team's reward, and the global state too, if it is one for all. They are done
    where the task ended, at the last step of an episode that terminated. So what is read back is
    what was written bit for bit, but for binary states, which become float32, and for episodes that
    terminated at the very step limit, which are taken to have been truncated.

    Args:
        folder: made if need be; it must not hold files, which would be read as episodes.
        episodes: consumed one at a time.

    Returns:
        The number of episodes.

    Raises:
        UserError: the folder holds something, or cannot be written to.
    """
    folder = Path(folder).expanduser()
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty. Give another folder, or empty it.")
        for count, episode in enumerate(episodes, start=1):
            with atomic_path(folder / f"{count - 1:06d}.pt") as beside:
                torch.save(_lists(episode), beside)
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error}. Check the folder's permissions and space."
        ) from error
    return count


def _lists(episode: Episode) -> list[list[list[object]]]:
    """Return lists over agents over steps of the six entries."""
    length, agents = episode.action.shape
    state = np.broadcast_to(episode.state, (length, agents, episode.state.shape[-1]))
    return [
        [
            [
                state[t, agent].tolist(),
                episode.observation[t, agent].tolist(),
                [int(episode.action[t, agent])],
                [float(episode.reward[t])],
                bool(episode.terminated and t == length - 1),
                episode.available_actions[t, agent].astype(int).tolist(),
            ]
            for t in range(length)
        ]
        for agent in range(agents)
    ]
