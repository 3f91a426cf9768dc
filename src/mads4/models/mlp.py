"""A feed-forward policy: what agents do without memory and without each other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.actions import choose_actions, mask_unavailable
from mads4.models.base import SequencePolicy
from mads4.models.embedding import InputEmbedding
from mads4.models.policy_state import PolicyState, where
from mads4.models.sequence_view import PolicySequence
from mads4.types import EnvSpec, PolicyInput, PolicyOutput, SequenceBatch


class MlpPolicy(SequencePolicy):
    """One network for all agents, each of which decides on its own from the present alone.

    The actor of feed-forward MAPPO (Yu et al. 2022), and behavior cloning's usual network.

    Args:
        spec: the environment's sizes.
        n_layers: hidden layers behind the embedding.
        d_model: H, their width.
        use_return: condition on the return-to-go.
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
        use_return: bool = True,
        use_global_state: bool = True,
        use_previous_action: bool = False,
        normalization: str = "shared",
    ) -> None:
        super().__init__()
        self.spec = spec
        self.agent_order = "fixed"
        self.latent_dim = d_model
        self.embedding = InputEmbedding(
            spec,
            d_model,
            use_return=use_return,
            use_state=use_global_state,
            use_previous_action=use_previous_action,
            normalization=normalization,
        )
        self.hidden = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers + 1))
        self.head = nn.Linear(d_model, spec.n_actions)

    def forward(
        self, batch: SequenceBatch, *, order: Tensor | None = None, lost: Tensor | None = None
    ) -> Tensor:
        """Return action logits (B, T, N, n_actions); there is no order, and nothing to lose."""
        return self.sequence(batch).logits

    def sequence(
        self,
        batch: SequenceBatch,
        *,
        order: Tensor | None = None,
        lost: Tensor | None = None,
        state: PolicyState | None = None,
        return_state: bool = False,
    ) -> PolicySequence:
        """Return what the policy makes of sequences; see `SequencePolicy.sequence`."""
        latent = self._latent(
            batch.observation, batch.state, batch.previous_action, batch.return_to_go
        )
        logits = mask_unavailable(self.head(latent), batch.available_actions)
        after = PolicyState((), batch.action[:, -1], None) if return_state else None
        return PolicySequence(logits, latent, after)

    def _latent(self, observation: Tensor, state: Tensor, action: Tensor, asked: Tensor) -> Tensor:
        """Return what is decided from, (…, N, H)."""
        latent = self.norms[0](functional.relu(self.embedding(observation, state, action, asked)))
        for layer, norm in zip(self.hidden, list(self.norms)[1:], strict=True):
            latent = norm(functional.relu(layer(latent)))
        return torch.as_tensor(latent)

    def initial_state(self, batch: int) -> PolicyState:
        """Return the state of `batch` environments before their first step: no action yet."""
        device = self.head.weight.device
        return PolicyState(
            (), torch.full((batch, self.spec.n_agents), -1, device=device), message=None
        )

    def step(self, inputs: PolicyInput, state: PolicyState) -> tuple[PolicyOutput, PolicyState]:
        """Decide for one time step of B environments."""
        latent = self._latent(
            inputs.observation, inputs.state, state.previous_action, inputs.return_to_go
        )
        logits = mask_unavailable(self.head(latent), inputs.available_actions)
        action = inputs.action
        if action is None:
            action = choose_actions(logits, inputs.uniform)
        return PolicyOutput(action, logits), replace(state, previous_action=action)

    def reset_rows(self, state: PolicyState, rows: Tensor) -> PolicyState:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""
        return where(rows, self.initial_state(len(rows)), state)
