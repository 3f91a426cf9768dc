"""Episodes in MADT's nested lists, made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

AGENTS, STATE, OBSERVATION, ACTIONS = 3, 7, 5, 6

FORMS: dict[str, Callable[[Any], Any]] = {
    "lists": lambda row: row.tolist(),
    "arrays": lambda row: row,
    "tensors": torch.from_numpy,
}
"""How the entries of a step can be written."""


def nested(length: int, seed: int = 0, form: str = "lists", done: bool = True) -> list[Any]:
    """Return an episode; agent 0 dies after half of it, and all are done at its end."""
    rng, write = np.random.default_rng(seed), FORMS[form]
    rewards = rng.normal(size=length).astype(np.float32)
    agents = []
    for agent in range(AGENTS):
        steps = []
        for t in range(length):
            available = (rng.random(ACTIONS) < 0.5).astype(np.int64)
            action = int(rng.integers(ACTIONS))
            available[action] = 1
            over = (done and t == length - 1) or (agent == 0 and t >= length // 2)
            if not done and t == length - 1:
                over = False
            steps.append(
                [
                    write(rng.normal(size=STATE).astype(np.float32)),
                    write(rng.normal(size=OBSERVATION).astype(np.float32)),
                    write(np.array([action])),
                    write(rewards[t : t + 1]),
                    over,
                    write(available),
                ]
            )
        agents.append(steps)
    return agents


def save(folder: Path, *episodes: Any, **options: Any) -> Path:
    """Write a file for each episode and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, episode in enumerate(episodes):
        torch.save(episode, folder / f"{number}.pt", **options)
    return folder
