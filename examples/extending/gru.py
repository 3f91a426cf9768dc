"""A model: agents share a gated recurrent unit and decide independently of each other."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mads4.models import IndependentPolicy, State
from mads4.models.embedding import InputEmbedding
from mads4.types import EnvSpec


class GruPolicy(IndependentPolicy):
    """A recurrent policy; parallel over agents, not over time.

    Args:
        spec: the environment's sizes.
        d_model: width of embedding and memory, in features.
    """

    def __init__(self, spec: EnvSpec, d_model: int = 32) -> None:
        super().__init__()
        self.spec, self.latent_dim = spec, d_model
        self.embedding = InputEmbedding(
            spec,
            d_model,
            return_conditioning=True,
            use_global_state=True,
            use_previous_action=True,
            normalization="shared",
        )
        self.gru = nn.GRU(d_model, d_model, batch_first=True)
        self.head = nn.Linear(d_model, spec.n_actions)

    def initial_memory(self, batch: int) -> Tensor:
        """Return zeros (B, N, H)."""
        return self.head.weight.new_zeros(batch, self.spec.n_agents, self.latent_dim)

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
        """Return latents (B, T, N, H) and the memory (B, N, H) after the last step."""
        embedded = self.embedding(observation, state, previous_action, return_to_go, agent)
        batch, time, agents, width = embedded.shape
        rows = functional.relu(embedded).transpose(1, 2).reshape(batch * agents, time, width)
        before = None if memory is None else memory.reshape(1, batch * agents, width)
        latent, after = self.gru(rows, before)
        latent = latent.view(batch, agents, time, width).transpose(1, 2)
        return latent, after.view(batch, agents, width)
