"""A feed-forward policy: no memory and no communication."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.base import MODELS, IndependentPolicy, ModelSettings
from mads4.models.embedding import InputEmbedding
from mads4.models.state import State
from mads4.settings import Positive
from mads4.types import EnvSpec


@MODELS.register("mlp")
class MlpConfig(ModelSettings):
    """A feed-forward policy: no memory and no communication."""

    name: Literal["mlp"] = "mlp"
    """Policy architecture."""
    n_layers: Positive = 2
    """Hidden layers behind the embedding."""
    d_model: Positive = 128
    """Their width, in features."""
    return_conditioning: bool = True
    """Condition on the return-to-go."""
    use_global_state: bool = True
    """Feed the global state."""
    use_previous_action: bool = False
    """Feed the agent's own previous action."""
    normalization: Literal["shared", "per_agent"] = "shared"
    """Statistics that scale observations and states: one for all agents, or each its own."""

    def build(self, spec: EnvSpec, kernel_backend: str) -> MlpPolicy:
        """Return a freshly initialized policy."""
        return MlpPolicy(spec, **self.model_dump(exclude={"name"}))


class MlpPolicy(IndependentPolicy):
    """One network for all agents, each of which decides from the present alone.

    The actor of feed-forward MAPPO (Yu et al. 2022), and behavior cloning's usual network.

    Args:
        spec: the environment's sizes.
        n_layers: hidden layers behind the embedding.
        d_model: H, their width.
        return_conditioning: condition on the return-to-go.
        use_global_state: feed the global state.
        use_previous_action: feed the agent's own previous action.
        normalization: ``shared`` or ``per_agent``, see `InputEmbedding`.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        n_layers: int = 2,
        d_model: int = 128,
        return_conditioning: bool = True,
        use_global_state: bool = True,
        use_previous_action: bool = False,
        normalization: str = "shared",
    ) -> None:
        super().__init__()
        self.spec = spec
        self.latent_dim = d_model
        self.embedding = InputEmbedding(
            spec,
            d_model,
            return_conditioning=return_conditioning,
            use_global_state=use_global_state,
            use_previous_action=use_previous_action,
            normalization=normalization,
        )
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
