"""A stand-in for SMAClite's environment: its interface, sizes, strictness and flaw, no battle.

The flaw: states hold the last actions, and the first state of a battle those of the battle before.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from mads4.envs.smac.maps import MAPS


class SMACliteEnv(gymnasium.Env[Any, Any]):
    """Enemy 0 can always be attacked; when it has been `toughness` times the battle is won."""

    metadata = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012 - gymnasium's convention

    def __init__(self, map_name: str, toughness: int = 6, render_mode: str = "human") -> None:
        game = MAPS["2s3z"]
        self.map_name, self.render_mode, self._toughness = map_name, render_mode, toughness
        self.n_agents, self.n_actions = game.n_agents, game.n_actions
        self.obs_size, self.state_size = 80, 120
        self.last_actions = np.zeros(self.n_actions * self.n_agents)
        self.action_space = gymnasium.spaces.Tuple(
            gymnasium.spaces.Discrete(self.n_actions) for _ in range(self.n_agents)
        )
        self.observation_space = gymnasium.spaces.Tuple(
            gymnasium.spaces.Box(-1, 1, (self.obs_size,)) for _ in range(self.n_agents)
        )

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, bool]]:
        self._rng, self._hits = np.random.default_rng(seed), 0
        return self._obs(), {"battle_won": False}

    def step(self, actions: list[int]) -> tuple[Any, float, bool, bool, dict[str, bool]]:
        assert all(type(action) is int for action in actions)
        self.last_actions = np.eye(self.n_actions)[np.array(actions)].flatten()
        self._hits += sum(action == 6 for action in actions)
        won = self._hits >= self._toughness
        return self._obs(), 20.0 * won, won, False, {"battle_won": won}

    def get_avail_actions(self) -> list[np.ndarray]:
        available = np.zeros((self.n_agents, self.n_actions))
        available[:, [1, 6]] = 1.0
        return list(available)

    def get_state(self) -> np.ndarray:
        state = np.full(self.state_size, self._hits, np.float32)
        state[-self.last_actions.size :] = self.last_actions
        return state

    def render(self) -> np.ndarray:
        assert self.render_mode == "rgb_array"
        return np.zeros((4, 4, 3), np.uint8)

    def _obs(self) -> tuple[np.ndarray, ...]:
        rows = self._rng.random((self.n_agents, self.obs_size), dtype=np.float32)
        return tuple(rows)


def register() -> None:
    """Register maps as SMAClite does when it is imported."""
    for name in ("2s3z", "MMM2", "arena"):
        gymnasium.register(
            f"smaclite/{name}-v0", f"{__name__}:SMACliteEnv", kwargs={"map_name": name}
        )
