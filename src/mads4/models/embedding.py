"""Embedding of an agent's inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.types import EnvSpec

NORMALIZATIONS = ("shared", "per_agent")


class InputEmbedding(nn.Module):
    """The sum of one linear encoder per input, before the activation.

    The paper encodes each input linearly and projects the concatenation linearly; the two linear
    maps are combined here into one matrix per input. All agents share the weights and differ by a
    learned vector.

    Args:
        spec: the environment's sizes.
        d_model: H, the network's width.
        return_conditioning: condition on the return-to-go.
        use_global_state: feed the global state.
        use_previous_action: feed the agent's own previous action.
        normalization: ``shared``: by the same statistics for all agents; ``per_agent``: by each
            agent's own, where their features differ in kind or range.

    Raises:
        ValueError: an unknown normalization.
    """

    observation_mean: Tensor
    observation_std: Tensor
    state_mean: Tensor
    state_std: Tensor
    return_scale: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        d_model: int,
        *,
        return_conditioning: bool = True,
        use_global_state: bool = True,
        use_previous_action: bool = True,
        normalization: str = "shared",
    ) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            allowed = ", ".join(NORMALIZATIONS)
            raise ValueError(f"normalization: got '{normalization}', expected one of {allowed}.")
        self.normalization = normalization
        self.observation = nn.Linear(spec.obs_dim, d_model)
        self.agent = nn.Embedding(spec.n_agents, d_model)
        self.state = nn.Linear(spec.state_dim, d_model, bias=False) if use_global_state else None
        self.return_to_go = nn.Linear(1, d_model, bias=False) if return_conditioning else None
        self.previous_action = (
            nn.Embedding(spec.n_actions + 1, d_model) if use_previous_action else None
        )
        agents = (spec.n_agents,) if normalization == "per_agent" else ()
        seen, shown = (*agents, spec.obs_dim), (*agents[: spec.state_per_agent], spec.state_dim)
        self.register_buffer("observation_mean", torch.zeros(seen))
        self.register_buffer("observation_std", torch.ones(seen))
        self.register_buffer("state_mean", torch.zeros(shown))
        self.register_buffer("state_std", torch.ones(shown))
        self.register_buffer("return_scale", torch.ones(()))
        for embedding in (self.agent, self.previous_action):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.1)

    def set_normalization(self, statistics: Mapping[str, Tensor]) -> None:
        """Set the data set's statistics: name of a buffer here → values.

        Shared values are used for every agent where each has its own.
        """
        for name, value in statistics.items():
            buffer = getattr(self, name)
            given = torch.as_tensor(value, dtype=buffer.dtype)
            buffer.copy_(given.reshape(buffer.shape if given.numel() == buffer.numel() else -1))

    def normalized_state(self, state: Tensor, agent: Tensor | None = None) -> Tensor:
        """Return states (..., N or 1, state_dim) scaled by the data's statistics."""
        dtype = self.observation.weight.dtype
        if state.dtype != torch.uint8:  # statistics of binary states are 0 and 1
            mean, std = _of(agent, self.state_mean), _of(agent, self.state_std)
            state = (state.to(dtype) - mean) / std
        return state.to(dtype)

    def forward(
        self,
        observation: Tensor,
        state: Tensor,
        previous_action: Tensor,
        return_to_go: Tensor,
        agent: Tensor | None = None,
    ) -> Tensor:
        """Return (..., N, H) for any leading axes.

        Args:
            observation: (..., N, obs_dim).
            state: (..., N or 1, state_dim), float or uint8.
            previous_action: (..., N) int64, -1 where there was none.
            return_to_go: (...), in the environment's reward units.
            agent: (..., N) int64, the agents' numbers; None for all agents in order.
        """
        dtype = self.observation.weight.dtype
        mean, std = _of(agent, self.observation_mean), _of(agent, self.observation_std)
        observation = (observation.to(dtype) - mean) / std
        agent_id = self.agent.weight if agent is None else self.agent(agent)
        embedded: Tensor = self.observation(observation) + agent_id
        if self.state is not None:
            embedded = embedded + self.state(self.normalized_state(state, agent))
        if self.return_to_go is not None:
            scaled = (return_to_go.to(dtype) / self.return_scale).unsqueeze(-1)
            embedded = embedded + self.return_to_go(scaled).unsqueeze(-2)
        if self.previous_action is not None:
            embedded = embedded + functional.embedding(
                previous_action + 1, self.previous_action.weight
            )
        return embedded


def _of(agent: Tensor | None, statistics: Tensor) -> Tensor:
    """Return the statistics (D,), or (..., N, D) of these agents where each has its own."""
    return statistics if agent is None or statistics.ndim == 1 else statistics[agent]
