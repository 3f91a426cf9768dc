"""Mixing networks: from agents' values to the team's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.types import EnvSpec


class NormalizedMixing(nn.Module):
    """Q_tot = Σ_i k_i(s) Q_i with k_i ≥ 0 that sum to 1 (ICQ-MA, Yang et al. 2021, equation 16).

    Args:
        spec: the environment's sizes.
        width: features of the hidden layer that computes the weights from the state.
    """

    def __init__(self, spec: EnvSpec, width: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(spec.state_dim, width)
        self.weights = nn.Linear(width, spec.n_agents)

    def forward(self, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the team's value (B, T), and the weights k (B, T, N).

        Args:
            values: (B, T, N).
            state: (B, T, N or 1, state_dim), normalized; agents' own views are averaged.
        """
        hidden = functional.relu(self.hidden(state.mean(dim=-2)))
        raw = self.weights(hidden).abs() + 1e-10
        weights: Tensor = raw / raw.sum(dim=-1, keepdim=True)
        return torch.sum(weights * values, dim=-1), weights
