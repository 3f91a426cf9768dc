"""Critics: state values (online training), action values and their mixing (offline training)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.embedding import InputEmbedding
from mads4.types import EnvSpec, SequenceBatch


class PopArt(nn.Module):
    """A linear output with normalized targets that preserves its unnormalized values.

    Running mean and standard deviation of the targets normalize them; whenever they move, weight
    and bias are rescaled so that the unnormalized output stays what it was (van Hasselt et al.
    2016, "Learning values across many orders of magnitude", equations 9 and 10).

    Args:
        width: input features.
        momentum: share of the old statistics that an update keeps, once there are enough of them.
    """

    mean: Tensor
    mean_square: Tensor
    count: Tensor

    def __init__(self, width: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("mean_square", torch.ones(()))
        self.register_buffer("count", torch.zeros(()))

    @property
    def std(self) -> Tensor:
        """Standard deviation of the targets, at least 1e-2."""
        return (self.mean_square - self.mean.square()).clamp(min=1e-4).sqrt()

    def forward(self, hidden: Tensor) -> Tensor:
        """Return normalized values (…) from (…, width)."""
        values: Tensor = self.linear(hidden).squeeze(-1)
        return values

    def normalize(self, values: Tensor) -> Tensor:
        """Return values in units of the targets' spread."""
        return (values - self.mean) / self.std

    def restore(self, normalized: Tensor) -> Tensor:
        """Return normalized values in the reward's units."""
        return normalized * self.std + self.mean

    @torch.no_grad()
    def update(self, targets: Tensor) -> None:
        """Update the statistics with new targets (any shape), in the reward's units.

        The first updates are averaged with equal weight, so that the initial values have none.
        """
        before_mean, before_std = self.mean.clone(), self.std
        keep = torch.minimum(self.count / (self.count + 1.0), self.mean.new_tensor(self.momentum))
        self.count += 1.0
        self.mean.lerp_(targets.mean(), float(1.0 - keep))
        self.mean_square.lerp_(targets.square().mean(), float(1.0 - keep))
        self.linear.weight.mul_(before_std / self.std)
        self.linear.bias.mul_(before_std).add_(before_mean - self.mean).div_(self.std)


class Critic(nn.Module):
    """The centralized critic of online training: each agent's state value.

    Its inputs are the global state, the agent's observation, the return-to-go, and the policy's
    latents of the step before, its own and the mean over all agents, detached: no gradient of the
    value reaches the policy. (The latents of the present step depend on predecessors' actions,
    which are not sampled yet where the value is bootstrapped.)

    Args:
        spec: the environment's sizes.
        latent_dim: features of the policy's latents.
        width: features of the hidden layers.
        n_layers: hidden layers behind the embedding.
        normalization: ``shared`` or ``per_agent``, as the policy's, whose statistics it takes.
    """

    def __init__(
        self,
        spec: EnvSpec,
        latent_dim: int,
        *,
        width: int = 128,
        n_layers: int = 2,
        normalization: str = "shared",
    ) -> None:
        super().__init__()
        self.embedding = InputEmbedding(spec, width, normalization=normalization)
        self.own_memory = nn.Linear(latent_dim, width, bias=False)
        self.team_memory = nn.Linear(latent_dim, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers + 1))
        self.value = PopArt(width)

    def forward(self, batch: SequenceBatch, latent: Tensor) -> Tensor:
        """Return normalized values (B, T, N); `PopArt.restore` gives them a unit.

        Args:
            batch: trajectories, or segments of them.
            latent: (B, T, N, latent_dim) of the step before, 0 at an episode's first.
        """
        given = latent.detach()
        embedded = self.embedding(
            batch.observation, batch.state, batch.previous_action, batch.return_to_go
        )
        team = self.team_memory(given.mean(dim=-2, keepdim=True))
        hidden = self.norms[0](functional.relu(embedded + self.own_memory(given) + team))
        for layer, norm in zip(self.hidden, list(self.norms)[1:], strict=True):
            hidden = norm(functional.relu(layer(hidden)))
        values: Tensor = self.value(hidden)
        return values


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
