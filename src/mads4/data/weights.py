"""How likely each trajectory is to be drawn."""

from __future__ import annotations

import numpy as np

from mads4.data.dataset import EpisodeTable
from mads4.types import FloatArray

SAMPLINGS = ("uniform", "length", "return")


def trajectory_weights(
    table: EpisodeTable, sampling: str, return_temperature: float | None = None
) -> FloatArray:
    """Return (E,) float64, what trajectories are drawn in proportion to; not all 0.

    Args:
        table: Lengths and returns of the episodes.
        sampling: ``uniform``; ``length``: the number of steps, so that every step is equally
            likely (Chen et al. 2021, Decision Transformer); ``return``: the return. Where some
            return is negative, all are shifted so that the least is 0; where all are 0 then, the
            weights are equal.
        return_temperature: For ``return``: weights exp((R - min R) / (max R - min R) / α) instead,
            which no shift or scale of the rewards changes (Hong et al. 2023, Harnessing Mixed
            Offline RL Datasets via Trajectory Weighting, use α = 0.1); a large α is uniform.

    Raises:
        ValueError: an unknown `sampling`.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling: got '{sampling}', expected one of {', '.join(SAMPLINGS)}.")
    if sampling == "uniform":
        return np.ones(len(table.length))
    if sampling == "length":
        return table.length.astype(np.float64)
    returns = table.episode_return.astype(np.float64)
    if return_temperature is not None:
        above, spread = returns - returns.min(), np.ptp(returns)
        share = above / spread if spread > 0 else np.zeros_like(above)
        likely: FloatArray = np.exp((share - 1.0) / return_temperature)
        return likely
    weights = returns - min(returns.min(), 0.0)
    return weights if weights.any() else np.ones_like(weights)
