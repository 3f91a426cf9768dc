"""Writing episodes in MADT's layout, for programs that read that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from mads4.data.formats.export import checked, new_folder
from mads4.types import EnvSpec, Episode


def write_madt(folder: Path | str, spec: EnvSpec, episodes: Iterable[Episode]) -> Path:
    """Write a file of nested lists for each episode, numbered in the order they come.

    All agents get the team's reward, and the global state too, if it is one for all. They are done
    where the task ended, at the last step of an episode that terminated. So what is read back is
    what was written bit for bit, but for binary states, which become float32, and for episodes that
    terminated at the very step limit, which are taken to have been truncated.

    Args:
        folder: a new folder, ``<map>/<quality>``, say.
        spec: what every episode has to fit.
        episodes: consumed one at a time, so that memory holds only one.

    Returns:
        The folder, which appears complete or not at all.

    Raises:
        UserError: the folder exists, an episode does not fit, or there is none.
    """
    folder = Path(folder).expanduser()
    with new_folder(folder) as beside:
        for number, (episode, _) in enumerate(checked(spec, episodes)):
            torch.save(_lists(episode), beside / f"{number:06d}.pt")
    return folder


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
