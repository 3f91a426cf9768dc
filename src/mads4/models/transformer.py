"""A decision transformer over each agent's own history, with a key-value cache in the step view.

Every time step of an agent is up to three tokens, in this order: its previous action, the
return-to-go, and its observation with the global state, whose output gives the action logits (Chen
et al. 2021, arXiv 2106.01345, with the action moved one place so that a step begins with what came
before it; MADT, arXiv 2112.02845, pools the agents in the same way). Agents share the weights and
exchange nothing, so that all of them are one batch in both views.

Attention reaches back `context_length` steps in every layer, see `mads4.nn.attention`, whose cache
is the policy's memory. Axes: ``B`` batch, ``T`` time, ``N`` agents, ``D`` width.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.base import MODELS, NetworkSettings
from mads4.models.independent import IndependentPolicy
from mads4.models.state import State
from mads4.nn.attention import CachedAttention, TransformerLayer, WindowAttention, sinusoids
from mads4.settings import Positive
from mads4.types import EnvSpec


@MODELS.register("transformer")
class TransformerConfig(NetworkSettings):
    """A decision transformer over each agent's own history."""

    name: Literal["transformer"] = "transformer"
    """Policy architecture."""
    n_layers: Positive = 3
    """Number of transformer layers."""
    d_model: Positive = 64
    """Width D of a token, in features; even."""
    n_heads: Positive = 4
    """Attention heads, a divisor of d_model."""
    feed_forward: Positive = 256
    """Hidden units of a layer's feed-forward part."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of what each part of a layer adds, in training."""
    context_length: Positive | None = 20
    """Time steps that attention reaches back in each layer; null for a whole episode."""

    def build(self, spec: EnvSpec, kernel_backend: str) -> TransformerPolicy:
        """Return a freshly initialized policy."""
        return TransformerPolicy(spec, **self.model_dump(exclude={"name"}))

    def problems(self, where: str) -> list[str]:
        """Return one line if the width cannot be divided into heads."""
        if self.d_model % self.n_heads == 0 and self.d_model % 2 == 0:
            return []
        return [
            f"{where}.d_model: got {self.d_model}, expected an even number that "
            f"{where}.n_heads {self.n_heads} divides"
        ]


class TransformerPolicy(IndependentPolicy):
    """A causal transformer for all agents.

    Args:
        spec: the environment's sizes.
        **options: fields of `TransformerConfig`. Attention weights are not dropped, as PyTorch's
            fast attention on CPUs cannot.

    Raises:
        ValueError: if `d_model` cannot be divided into the heads.
    """

    def __init__(self, spec: EnvSpec, **options: Any) -> None:
        super().__init__()
        config = TransformerConfig(**options)
        problems = config.problems("model")
        if problems:
            raise ValueError(problems[0])
        d_model = config.d_model
        reads_return, reads_action = config.return_conditioning, config.use_previous_action
        self.spec, self.latent_dim, self.n_heads = spec, d_model, config.n_heads
        self.context_length = config.context_length or spec.episode_limit
        self.tokens = 1 + reads_return + reads_action
        """Per time step of an agent."""
        self.in_place = False
        """Let a step write into the cache of its input state, which saves a copy; earlier states
        become invalid."""
        self.embedding = config.embedding(
            spec, d_model, return_conditioning=False, use_previous_action=False
        )
        self.return_token = nn.Linear(1, d_model) if reads_return else None
        self.action_token = nn.Embedding(spec.n_actions + 1, d_model) if reads_action else None
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, config.n_heads, config.feed_forward, config.dropout)
            for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, spec.n_actions)

    @property
    def optional_inputs(self) -> frozenset[str]:
        """Which optional inputs the policy reads, its tokens included."""
        tokens = {"return_to_go": self.return_token, "previous_action": self.action_token}
        read = {name for name, token in tokens.items() if token is not None}
        return super().optional_inputs | read

    def initial_memory(self, batch: int) -> State:
        """Return an empty cache per layer, and the number of past steps of the episode, (B, N).

        A cache is (B, N, 2, heads, K, tokens, D / heads): keys and values of K time steps.
        """
        weight, rows = self.head.weight, (batch, self.spec.n_agents)
        shape = (2, self.n_heads, self.context_length, self.tokens, self.latent_dim // self.n_heads)
        return {
            "cache": tuple(weight.new_zeros(*rows, *shape) for _ in self.layers),
            "steps": torch.zeros(rows, dtype=torch.int64, device=weight.device),
        }

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
        """Return latents (B, T, N, D), the output at each step's last token, and the memory."""
        batch, length, n_agents = observation.shape[:3]
        if memory is None and return_memory:
            memory = self.initial_memory(batch)
        time = torch.arange(length, device=observation.device)
        caches: list[Tensor | None] = [None] * len(self.layers)
        attention: WindowAttention | CachedAttention
        attention = WindowAttention(time, self.context_length, self.tokens)
        if memory is not None:
            caches = [cache.flatten(0, 1) for cache in memory["cache"]]
            slots = memory["cache"][0].shape[4]
            window, past = min(self.context_length, slots), memory["steps"]
            attention = CachedAttention(
                past.flatten(), length, window, slots, self.tokens, self.in_place and length == 1
            )
            time = past.unsqueeze(-1) + time
        x = self._embed(observation, state, previous_action, return_to_go, agent)
        x = x + sinusoids(time, self.latent_dim).to(x.dtype).unsqueeze(-2)
        x = x.flatten(0, 1).flatten(1, 2)
        after = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, cache = layer(x, cache, attention)
            after.append(cache)
        latent = self.norm(x[:, self.tokens - 1 :: self.tokens])
        latent = latent.unflatten(0, (batch, n_agents)).transpose(1, 2)
        if memory is None or not return_memory:
            return latent, None
        kept = tuple(cache.unflatten(0, (batch, n_agents)) for cache in after)
        return latent, {"cache": kept, "steps": memory["steps"] + length}

    def _embed(
        self,
        observation: Tensor,
        state: Tensor,
        previous_action: Tensor,
        return_to_go: Tensor,
        agent: Tensor | None,
    ) -> Tensor:
        """Return the tokens (B, N, T, tokens, D), without positional encoding."""
        embedded = self.embedding(observation, state, previous_action, return_to_go, agent)
        tokens = [embedded]
        if self.return_token is not None:
            scaled = return_to_go.to(embedded.dtype) / self.embedding.return_scale
            agents = self.embedding.agent
            agent_id = agents.weight if agent is None else agents(agent)
            token = self.return_token(scaled[..., None, None]) + agent_id
            tokens.insert(0, token.expand_as(embedded))
        if self.action_token is not None:
            tokens.insert(0, functional.embedding(previous_action + 1, self.action_token.weight))
        return torch.stack(tokens, dim=3).transpose(1, 2)
