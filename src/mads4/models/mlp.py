"""A feed-forward policy: no memory and no communication."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.base import MODELS, NetworkSettings
from mads4.models.independent import IndependentPolicy
from mads4.models.state import State
from mads4.settings import Positive
from mads4.types import EnvSpec


@MODELS.register("mlp")
class MlpConfig(NetworkSettings):
    """A feed-forward policy: no memory and no communication."""

    name: Literal["mlp"] = "mlp"
    """Policy architecture."""
    n_layers: Positive = 2
    """Hidden layers behind the embedding."""
    d_model: Positive = 128
    """Their width, in features."""
    use_previous_action: bool = False
    """Feed the agent's own previous action."""

    def build(self, spec: EnvSpec, kernel_backend: str) -> MlpPolicy:
        """Return a freshly initialized policy."""
        return MlpPolicy(spec, **self.model_dump(exclude={"name"}))


class MlpPolicy(IndependentPolicy):
    """One network for all agents, each of which decides from the present alone.

    The actor of feed-forward MAPPO (Yu et al. 2022), and behavior cloning's usual network.

    Args:
        spec: the environment's sizes.
        **options: fields of `MlpConfig`.
    """

    def __init__(self, spec: EnvSpec, **options: Any) -> None:
        super().__init__()
        config = MlpConfig(**options)
        n_layers, d_model = config.n_layers, config.d_model
        self.spec, self.latent_dim = spec, d_model
        self.embedding = config.embedding(spec, d_model)
        self.hidden = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers + 1))
        self.head = nn.Linear(d_model, spec.n_actions)

    def encode(
        self,
        observation: Tensor,
        state: Tensor,
        previous_action: Tensor,
        return_to_go: Tensor,
        memory: State,
        *,
        agent: Tensor | None = None,
        return_memory: bool = True,
    ) -> tuple[Tensor, State]:
        """Return latents (B, T, N, H); there is no memory."""
        embedded = self.embedding(observation, state, previous_action, return_to_go, agent)
        latent = self.norms[0](functional.relu(embedded))
        for layer, norm in zip(self.hidden, list(self.norms)[1:], strict=True):
            latent = norm(functional.relu(layer(latent)))
        return torch.as_tensor(latent), None
