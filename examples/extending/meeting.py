"""An environment: agents on a line are paid, as a team, while all of them are in the same cell."""

from __future__ import annotations

import numpy as np

from mads4.types import EnvSpec, TimeStep

MOVES = np.array([0, -1, 1])
"""Change of position by action: stay, left, right."""


class Meeting:
    """A `mads4.envs.protocol.MultiAgentEnv`.

    Args:
        agents: number of agents.
        cells: cells of the line.
        episode_limit: length of an episode, in steps.
    """

    def __init__(self, agents: int = 2, cells: int = 5, episode_limit: int = 20) -> None:
        self._cells = cells
        self.spec = EnvSpec(
            name="meeting",
            scenario=f"{agents}on{cells}",
            n_agents=agents,
            obs_dim=cells,
            state_dim=agents * cells,
            n_actions=len(MOVES),
            episode_limit=episode_limit,
            reward="together",
        )

    def reset(self, seed: int) -> TimeStep:
        """Put the agents into cells that the seed draws."""
        self._time = 0
        self._position = np.random.default_rng(seed).integers(self._cells, size=self.spec.n_agents)
        return self._time_step(0.0)

    def step(self, actions: np.ndarray) -> TimeStep:
        """Move the agents; the border stops them."""
        self._time += 1
        self._position = np.clip(self._position + MOVES[actions], 0, self._cells - 1)
        return self._time_step(float(len(set(self._position.tolist())) == 1))

    def render(self) -> np.ndarray:
        """Return a picture: a white line of cells with a dark square for each agent."""
        image = np.full((self.spec.n_agents, self._cells, 3), 255, dtype=np.uint8)
        image[np.arange(self.spec.n_agents), self._position] = 40
        return image.repeat(24, axis=0).repeat(24, axis=1)

    def close(self) -> None:
        """Do nothing: nothing is held open."""

    def _time_step(self, reward: float) -> TimeStep:
        seen = np.eye(self._cells, dtype=np.float32)[self._position]
        return TimeStep(
            observation=seen,
            state=seen.reshape(1, -1),
            available_actions=np.ones((self.spec.n_agents, self.spec.n_actions), dtype=np.bool_),
            reward=reward,
            truncated=self._time == self.spec.episode_limit,
            metrics={"meetings": reward},
        )
