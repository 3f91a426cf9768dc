"""Action values for critics of recorded data: centralized, one network for all agents."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mads4.models.embedding import InputEmbedding
from mads4.types import EnvSpec, SequenceBatch


class ActionValues(nn.Module):
    """Q_i(s, o_i, ·) for each agent: a feed-forward network on state, observation and agent id.

    Args:
        spec: the environment's sizes.
        width: features of the hidden layers.
        n_layers: layers behind the embedding, ReLU between them.
        normalization: ``shared`` or ``per_agent``, as the policy's, whose statistics it takes.
    """

    def __init__(
        self, spec: EnvSpec, *, width: int = 256, n_layers: int = 1, normalization: str = "shared"
    ) -> None:
        super().__init__()
        self.embedding = InputEmbedding(
            spec,
            width,
            return_conditioning=False,
            use_previous_action=False,
            normalization=normalization,
        )
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers))
        self.head = nn.Linear(width, spec.n_actions)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Return the values (B, T, N, n_actions), those of unavailable actions included."""
        hidden = functional.relu(
            self.embedding(
                batch.observation, batch.state, batch.previous_action, batch.return_to_go
            )
        )
        for layer in self.hidden:
            hidden = functional.relu(layer(hidden))
        values: Tensor = self.head(hidden)
        return values
