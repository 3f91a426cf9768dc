"""One episode in MADT's layout: its lists checked and put into arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mads4.data.content import Array, value_problem
from mads4.data.formats.pickle_values import RefusedError, as_array, memory_limit, naming
from mads4.data.formats.torch_file import load_data
from mads4.types import EnvSpec, Episode

ENTRIES = ("global_state", "observation", "action", "reward", "done", "available_actions")


class SkippedError(Exception):
    """An episode that is skipped; the message follows the file's name."""


@dataclass(frozen=True)
class Sizes:
    """Lengths of the axes of an episode, from its first step."""

    agents: int
    state: int
    observation: int
    actions: int

    def bytes_per_step(self) -> int:
        """Return the bytes that a step takes in `_Arrays`."""
        return self.agents * (4 * (self.state + self.observation) + self.actions + 17)


class MadtEpisode:
    """A file's lists over agents and steps.

    Raises:
        UserError: the file is damaged or unsafe, or its content does not have the layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = load_data(path)
        with naming(path):
            self._agents = _sequence(content, "the episode", "agents")
            for number, steps in enumerate(self._agents):
                _sequence(steps, f"agent {number}", "steps")
            self._size = path.stat().st_size
        self.sizes = self._first_sizes()

    @property
    def lengths(self) -> list[int]:
        """Steps of each agent."""
        return [len(steps) for steps in self._agents]

    def episode(self, spec: EnvSpec, number: int) -> Episode:
        """Return the episode, numbered `number`.

        Raises:
            SkippedError: the reader's rules exclude it.
            UserError: an entry is no number or row of numbers, or its size differs from the
                spec's; the message names file, agent and step.
        """
        self._require_fit(spec)
        length = self._common_length(spec.episode_limit)
        arrays = self._arrays(length)
        reward = _team_reward(arrays["reward"])
        ended = _ended(arrays["done"]) and length < spec.episode_limit
        problem = value_problem(spec, arrays | {"reward": reward})
        if problem:
            raise SkippedError(f"cannot have happened: {problem}")
        return Episode(
            observation=arrays["observation"],
            state=arrays["state"],
            available_actions=arrays["available_actions"],
            action=arrays["action"],
            reward=reward,
            terminated=ended,
            truncated=not ended,
            seed=number,
        )

    def _first_sizes(self) -> Sizes:
        with naming(self.path, "agent 0, step 0"):
            state, observation, _, _, _, available = _entries(self._agents[0][0])
            widths = [_row(entry).size for entry in (state, observation, available)]
            if 0 in widths:
                raise RefusedError("its state, observation or available actions are empty")
        return Sizes(len(self._agents), *widths)

    def _require_fit(self, spec: EnvSpec) -> None:
        expected = Sizes(spec.n_agents, spec.state_dim, spec.obs_dim, spec.n_actions)
        with naming(self.path):
            if self.sizes != expected:
                raise RefusedError(
                    f"it has {_describe(self.sizes)}; expected are {_describe(expected)}"
                )

    def _common_length(self, limit: int) -> int:
        lengths = self.lengths
        if min(lengths) != max(lengths):
            raise SkippedError(f"has agents with unequal numbers of steps: {_few(lengths)}")
        if lengths[0] > limit:
            raise SkippedError(f"has {lengths[0]} steps, beyond the limit of {limit}")
        needed, most = lengths[0] * self.sizes.bytes_per_step(), memory_limit(self._size)
        with naming(self.path):
            if needed > most:
                raise RefusedError(
                    f"its steps refer to the same content so often that they need {needed} bytes "
                    f"of memory, more than the {most} allowed for a file of its size"
                )
        return lengths[0]

    def _arrays(self, length: int) -> dict[str, Array]:
        """Return arrays (T, N, …) of all entries."""
        shape, sizes = (length, self.sizes.agents), self.sizes
        arrays: dict[str, Array] = {
            "state": np.empty((*shape, sizes.state), np.float32),
            "observation": np.empty((*shape, sizes.observation), np.float32),
            "action": np.empty(shape, np.int64),
            "reward": np.empty(shape, np.float64),
            "done": np.empty(shape, np.bool_),
            "available_actions": np.empty((*shape, sizes.actions), np.bool_),
        }
        columns = tuple(arrays.values())
        with np.errstate(over="ignore", invalid="ignore"):
            for agent, steps in enumerate(self._agents):
                for t, step in enumerate(steps):
                    with naming(self.path, f"agent {agent}, step {t}"):
                        _fill(columns, (t, agent), step)
        return arrays


def _fill(columns: tuple[Array, ...], place: tuple[int, int], step: Any) -> None:
    for name, column, entry in zip(ENTRIES, columns, _entries(step), strict=True):
        row = _row(entry)
        if row.size != column[place].size:
            raise RefusedError(f"{name} has {row.size} numbers, expected {column[place].size}")
        if column.dtype == np.int64 and not (row == np.trunc(row)).all():
            raise RefusedError(f"{name} is {row.item()}, no whole number")
        column[place] = row.reshape(column[place].shape)


def _row(entry: Any) -> Array:
    row = as_array(entry)
    if row.dtype.kind not in "biuf":
        raise RefusedError(f"an entry holds {row.dtype} where numbers are expected")
    return row


def _entries(step: Any) -> Any:
    if type(step) not in (list, tuple) or len(step) < len(ENTRIES):
        raise RefusedError(f"a step is no list of {', '.join(ENTRIES)}")
    return step[: len(ENTRIES)]


def _sequence(value: Any, what: str, members: str) -> Any:
    if type(value) not in (list, tuple) or not value:
        raise RefusedError(f"{what} is no list of {members}, as it is in MADT's layout")
    return value


def _team_reward(reward: Array) -> Array:
    """Return the reward (T,) that all agents of (T, N) share."""
    same = (reward == reward[:, :1]).all(axis=1) | np.isnan(reward).all(axis=1)
    if not same.all():
        t = int(np.argmin(same))
        raise SkippedError(
            f"has agents with unequal rewards at step {t}: {_few(reward[t].tolist())}"
        )
    with np.errstate(over="ignore"):
        return reward[:, 0].astype(np.float32)


def _ended(done: Array) -> bool:
    """Whether all agents (T, N) are done at the last step; raise if they are before it."""
    over = np.asarray(done.all(axis=1))
    if over[:-1].any():
        raise SkippedError(f"goes on after step {int(np.argmax(over))}, where all agents are done")
    return bool(over[-1])


def _few(values: list[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values[:8]) + (", …" if len(values) > 8 else "")


def _describe(sizes: Sizes) -> str:
    return (
        f"{sizes.agents} agents, states of {sizes.state}, observations of {sizes.observation} and "
        f"{sizes.actions} actions"
    )
