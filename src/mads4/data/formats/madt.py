"""Data in the layout of MADT (Meng et al. 2021): a folder with one ``torch.save`` file per episode.

A file holds a list over the agents of lists over the steps of ::

    [global_state, observation, [action], [reward], done, available_actions]

whose entries are lists, NumPy arrays or tensors; what follows the six (a value estimate, in files
that MADT's own training wrote) is not read. Files are taken in the order of their names, so that
"the first 1000 episodes" are the same everywhere.

- The global state is each agent's own view of it (`EnvSpec.state_per_agent`).
- The reward is the team's, repeated for every agent: the wrapper that recorded SMAC gives all
  agents the same number. An episode whose agents differ has no team reward and is skipped.
- ``done`` is an agent's own: a unit that died is done while the others fight on. The episode is
  over where all are. Where that is its last step and before the step limit, it terminated;
  otherwise, and at the limit, where the data do not distinguish the two, it was truncated.

Skipped by rule, and listed in `MadtSource.skipped`, are also episodes whose agents have unequal
numbers of steps, that go on after their end or beyond the limit, and whose values no environment
can have had (an unavailable action, a number that is not finite). Files that are damaged, or not of
this layout, or whose sizes differ from the others' raise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mads4.data.formats.base import Format, checked, head, names_of, new_folder
from mads4.data.formats.madt_episode import MadtEpisode, Sizes, SkippedError
from mads4.data.observation_layouts import recognized
from mads4.data.settings import DATASETS, RecordedDataset
from mads4.envs.smac.maps import MAPS
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode

__all__ = ["LIMITS", "MadtDataset", "MadtSource", "open_madt", "write_madt"]

TORCH_HEADS = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of files by `torch.save`: archives, and pickles before version 1.6."""
READER_VERSION = 1
LIMITS: Mapping[str, int] = {name: game.episode_limit for name, game in MAPS.items()}
"""SMAC map → steps after which its episodes are cut."""

_QUALITIES = ("good", "medium", "poor", "expert", "random", "replay")
_LOG = logging.getLogger(__name__)


@DATASETS.register("madt")
class MadtDataset(RecordedDataset):
    """A data set in MADT's layout: a folder with one file of `torch.save` per episode."""

    name: Literal["madt"] = "madt"
    """Kind of data set."""


def open_madt(
    path: Path | str, env: EnvSpec | None = None, scenario: str | None = None
) -> MadtSource:
    """Open a folder ``<map>/<quality>/`` of episode files.

    Args:
        path: the folder; map and quality are taken from its name and its parent's.
        env: the environment that the data were recorded in; it gives the names and the step limit.
            Without it the limit is that of a map in `LIMITS`, and otherwise the length of the
            longest episode, for which all files have to be read; the names are those of the game
            in MAPPO's wrapper, where the sizes are its on that map, and otherwise empty.
        scenario: the map, where the folders' names do not contain it.

    Raises:
        UserError: no folder, no files in it, or a file that is damaged, foreign or unsafe.
    """
    folder = Path(path).expanduser()
    files = _files(folder)
    named, quality = _names(folder)
    scenario = scenario or named
    limit = env.episode_limit if env is not None else LIMITS.get(scenario, 0)
    first, longest = _survey(files if not limit else files[:1])
    sizes: dict[str, Any] = {
        "n_agents": first.agents,
        "obs_dim": first.observation,
        "state_dim": first.state,
        "n_actions": first.actions,
    }
    found = recognized(scenario, **sizes) if env is None else {}
    spec = EnvSpec(
        **(names_of(env) | found),
        **sizes,
        episode_limit=limit or longest,
        state_per_agent=True,
    )
    origin = {
        "format": "madt",
        "reader_version": READER_VERSION,
        "folder": folder.name,
        "map": scenario,
        "quality": quality,
    }
    name = "-".join(filter(None, (scenario, quality)))
    return MadtSource(name, spec, origin, files, folder)


def _files(folder: Path) -> tuple[Path, ...]:
    """Return the episodes' files, sorted by name; hidden ones are none."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Check the path of the data set.")
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = tuple(path for path in visible if path.is_file())
    if not files:
        inside = ", ".join(path.name for path in visible) or "nothing"
        raise UserError(
            f"{folder} holds no episodes: expected is a folder with a file of torch.save for each, "
            f"such as <map>/<quality>; there is {inside}."
        )
    return files


def _names(folder: Path) -> tuple[str, str]:
    """Return map and quality from the folders' names; empty where they are not there."""
    folder = folder.resolve()
    if folder.name.lower() in _QUALITIES:
        return folder.parent.name, folder.name.lower()
    return folder.name, ""


def _survey(files: tuple[Path, ...]) -> tuple[Sizes, int]:
    """Return the sizes of the first episode, and the steps of the longest."""
    sizes, longest = None, 0
    for path in files:
        episode = MadtEpisode(path)
        sizes = sizes or episode.sizes
        longest = max(longest, *episode.lengths)
    assert sizes is not None
    return sizes, longest


@dataclass
class MadtSource:
    """A `Source` in a folder of files, which are read one at a time."""

    name: str
    spec: EnvSpec
    origin: Mapping[str, Any]
    files: tuple[Path, ...]
    folder: Path
    skipped: dict[str, str] = field(default_factory=dict)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes in the order of their files' names, which number them.

        Raises:
            UserError: a file that is damaged, foreign or unsafe, or no episode that can be used.
        """
        self.skipped.clear()
        for number, path in enumerate(self.files):
            try:
                yield MadtEpisode(path).episode(self.spec, number)
            except SkippedError as error:
                self.skipped[path.name] = str(error)
        if not self.skipped:
            return
        name, reason = next(iter(self.skipped.items()))
        what = f"{len(self.skipped)} of {len(self.files)} episodes in {self.folder}"
        if len(self.skipped) == len(self.files):
            raise UserError(f"{what} can be used none of: {name} {reason}.")
        _LOG.warning("%s were skipped, the first, %s, because it %s", what, name, reason)


def write_madt(folder: Path | str, spec: EnvSpec, episodes: Iterable[Episode]) -> Path:
    """Write a file of nested lists for each episode, numbered in the order they come.

    All agents get the team's reward, and the global state too, if it is one for all. They are done
    where the task ended, at the last step of an episode that terminated. So what is read back is
    what was written bit for bit, but for binary states, which become float32, and for episodes that
    terminated at the very step limit, which are taken to have been truncated.

    Args:
        folder: a new folder, for example ``<map>/<quality>``.
        spec: what every episode has to fit.
        episodes: consumed one at a time, so that memory holds only one.

    Returns:
        The folder, which appears complete or not at all.

    Raises:
        UserError: the folder exists, an episode does not fit, or there is none.
    """
    import torch  # here, as listing the formats should not load it

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


def _matches(path: Path) -> bool:
    """Whether the first visible file of a folder was written by `torch.save`."""
    if not path.is_dir():
        return False
    files = (file for file in sorted(path.iterdir()) if file.is_file())
    first = next((file for file in files if not file.name.startswith(".")), None)
    return first is not None and head(first).startswith(TORCH_HEADS)


FORMAT = Format(open_madt, _matches, "a folder of files by torch.save, one per episode", write_madt)
