"""A decision transformer over each agent's own history, with a key-value cache in the step view.

Every time step of an agent is up to three tokens, in this order: its previous action, the
return-to-go, and its observation with the global state, whose output gives the action logits (Chen
et al. 2021, arXiv 2106.01345, with the action moved one place so that a step begins with what came
before it; MADT, arXiv 2112.02845, pools the agents in the same way). Agents share the weights and
exchange nothing, so that all of them are one batch in both views.

Attention is causal and reaches back `context_length` steps *in every layer* (sliding window), so
that a key never changes once it is computed: the cache of the last `context_length` steps, written
as a ring, is all that a step needs, and both views agree for episodes of any length. Through L
layers, information travels up to L (`context_length` - 1) steps. Axes: ``B`` batch, ``T`` time,
``N`` agents, ``D`` width, ``K`` steps in the cache, ``rows`` = B · N.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.base import MODELS, NetworkSettings, parameter_count
from mads4.models.independent import IndependentPolicy
from mads4.models.state import State
from mads4.settings import Positive
from mads4.types import EnvSpec

_LONGEST_PERIOD = 10_000.0


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
        d_model, reads_return, reads_action = (
            config.d_model,
            config.return_conditioning,
            config.use_previous_action,
        )
        self.spec, self.latent_dim, self.n_heads = spec, d_model, config.n_heads
        self.context_length = config.context_length or spec.episode_limit
        self.tokens = 1 + reads_return + reads_action
        """Per time step of an agent."""
        self.in_place = False
        """Let a step write into the cache of the state that it is given, which saves copying it.
        Only the latest state is valid then."""
        self.embedding = config.embedding(
            spec, d_model, return_conditioning=False, use_previous_action=False
        )
        self.return_token = nn.Linear(1, d_model) if reads_return else None
        self.action_token = nn.Embedding(spec.n_actions + 1, d_model) if reads_action else None
        self.layers = nn.ModuleList(
            _Layer(d_model, config.n_heads, config.feed_forward, config.dropout)
            for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, spec.n_actions)

    @property
    def optional_inputs(self) -> frozenset[str]:
        """Which optional inputs the policy reads, its tokens included."""
        names = set(super().optional_inputs)
        names |= {"return_to_go"} if self.return_token is not None else set()
        return frozenset(names | ({"previous_action"} if self.action_token is not None else set()))

    def initial_memory(self, batch: int) -> State:
        """Return an empty cache, and how many steps of the episode have passed, (B, N)."""
        return self.memory_after(0, batch, self.context_length)

    def memory_after(self, steps: int, batch: int, capacity: int) -> State:
        """Return a memory of the form, but not the contents, that it has after so many steps.

        What a step costs depends on the form only, so that it can be timed without an episode.

        Args:
            steps: of the episode that have passed.
            batch: environments.
            capacity: K, time steps that the cache has room for.
        """
        weight, n_agents = self.head.weight, self.spec.n_agents
        shape = (2, self.n_heads, capacity, self.tokens, self.latent_dim // self.n_heads)
        return {
            "cache": tuple(weight.new_zeros(batch, n_agents, *shape) for _ in self.layers),
            "steps": torch.full((batch, n_agents), steps, device=weight.device),
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
        attention: _Window | _Cached = _Window(time, self.context_length, self.tokens)
        if memory is not None:
            caches = [cache.flatten(0, 1) for cache in memory["cache"]]
            slots = memory["cache"][0].shape[4]
            window, passed = min(self.context_length, slots), memory["steps"]
            attention = _Cached(
                passed.flatten(), length, window, slots, self.tokens, self.in_place and length == 1
            )
            time = passed.unsqueeze(-1) + time
        x = self._embed(observation, state, previous_action, return_to_go, agent)
        x = x + _sinusoids(time, self.latent_dim).to(x.dtype).unsqueeze(-2)
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
        """Return the tokens (B, N, T, tokens, D), without their place in time.

        All agents have the same return-to-go: only who they are makes its tokens differ.
        """
        seen = self.embedding(observation, state, previous_action, return_to_go, agent)
        tokens = [seen]
        if self.return_token is not None:
            scaled = return_to_go.to(seen.dtype) / self.embedding.return_scale
            identity = self.embedding.agent
            who = identity.weight if agent is None else identity(agent)
            tokens.insert(0, (self.return_token(scaled[..., None, None]) + who).expand_as(seen))
        if self.action_token is not None:
            tokens.insert(0, functional.embedding(previous_action + 1, self.action_token.weight))
        return torch.stack(tokens, dim=3).transpose(1, 2)


class _Window:
    """Attention within sequences from the beginning of an episode on.

    Args:
        time: (T,) 0, 1, …
        window: time steps that attention reaches back.
        tokens: of a time step.
    """

    def __init__(self, time: Tensor, window: int, tokens: int) -> None:
        self.mask = _visible(time, time, window, tokens) if len(time) > window else None

    def __call__(self, query: Tensor, new: Tensor, cache: None) -> tuple[Tensor, None]:
        """Return the attended values (rows, heads, L, D / heads); `new` has keys and values."""
        key, value = new.unbind(1)
        causal = self.mask is None
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.mask, is_causal=causal
        )
        return attended, None


class _Cached:
    """Attention that begins with the keys and values of earlier steps.

    The cache is a ring: step t stands in slot t mod K.

    Args:
        passed: (rows,) steps of the episode so far.
        length: T, steps that follow.
        window: time steps that attention reaches back, at most K.
        slots: K.
        tokens: of a time step.
        in_place: write into the given cache.
    """

    def __init__(
        self,
        passed: Tensor,
        length: int,
        window: int,
        slots: int,
        tokens: int,
        in_place: bool,
    ) -> None:
        self.length, self.tokens, self.in_place = length, tokens, in_place
        time = passed.unsqueeze(-1) + torch.arange(length, device=passed.device)
        self.written = (time[:, -slots:] % slots)[:, None, None, :, None, None]
        known = (
            _held(passed + 1, slots)
            if length == 1
            else torch.cat([_held(passed, slots), time], dim=-1)
        )
        self.mask = _visible(time, known, window, tokens).unsqueeze(1)

    def __call__(self, query: Tensor, new: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attended values (rows, heads, L, D / heads), and the cache afterwards.

        Args:
            query: (rows, heads, L, D / heads), L = T times tokens.
            new: (rows, 2, heads, L, D / heads), keys and values of these steps.
            cache: (rows, 2, heads, K, tokens, D / heads).
        """
        by_step = new.reshape(*new.shape[:3], self.length, self.tokens, -1)
        by_step = by_step[:, :, :, -cache.shape[3] :]
        scatter = cache.scatter_ if self.in_place else cache.scatter
        after = scatter(3, self.written.expand(by_step.shape), by_step)
        known = after.flatten(3, 4)
        if self.length > 1:
            known = torch.cat([cache.flatten(3, 4), new], dim=3)
        key, value = known.unbind(1)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        return attended, after


class _Layer(nn.Module):
    """Attention and feed-forward part, each normalized first and added to its input."""

    def __init__(self, d_model: int, n_heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2))
        self.project = nn.Linear(d_model, 3 * d_model)
        self.mix = nn.Linear(d_model, d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, feed_forward), nn.GELU(), nn.Linear(feed_forward, d_model)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, cache: Tensor | None, attention: _Window | _Cached
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output (rows, L, D) for `x` (rows, L, D), and the cache afterwards."""
        projected = self.project(self.norms[0](x)).unflatten(-1, (3, self.n_heads, -1))
        projected = projected.permute(0, 2, 3, 1, 4)
        attended, cache = attention(projected[:, 0], projected[:, 1:], cache)  # type: ignore[arg-type]
        x = x + self.dropout(self.mix(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(self.norms[1](x))), cache


def of_size(spec: EnvSpec, parameters: int, **options: Any) -> TransformerPolicy:
    """Return the policy whose feed-forward width brings it closest to so many parameters.

    Args:
        spec: the environment's sizes.
        parameters: wanted.
        **options: fields of `TransformerConfig` other than `feed_forward`.
    """
    least, per_unit = (
        parameter_count(TransformerPolicy(spec, feed_forward=units, **options)) for units in (1, 2)
    )
    per_unit -= least
    units = max(1, 1 + round((parameters - least) / per_unit))
    return TransformerPolicy(spec, feed_forward=units, **options)


def _held(passed: Tensor, slots: int) -> Tensor:
    """Return the step that each slot of a ring holds after so many steps; negative for none.

    Args:
        passed: (rows,) steps.
        slots: K.

    Returns:
        (rows, K) int64.
    """
    latest = passed.unsqueeze(-1) - 1
    return latest - (latest - torch.arange(slots, device=passed.device)) % slots


def _visible(time: Tensor, known: Tensor, window: int, tokens: int) -> Tensor:
    """Return (…, T · tokens, S · tokens), True where a token may attend to another.

    Args:
        time: (…, T) steps that attend.
        known: (…, S) steps that are attended to; negative ones never are.
        window: time steps that attention reaches back.
        tokens: of a time step, each of which sees those before it.
    """
    place = torch.arange(tokens, device=time.device)
    query = (time.unsqueeze(-1) * tokens + place).flatten(-2).unsqueeze(-1)
    key = (known.unsqueeze(-1) * tokens + place).flatten(-2).unsqueeze(-2)
    first = (query // tokens - window + 1).clamp(min=0) * tokens
    return (key <= query) & (key >= first)


def _sinusoids(time: Tensor, width: int) -> Tensor:
    """Return (…, width) of sines and cosines with periods in geometric progression.

    Vaswani et al. 2017, section 3.5: without parameters, and for any length.
    """
    halves = torch.arange(width // 2, device=time.device)
    frequency = torch.exp(halves * (-math.log(_LONGEST_PERIOD) * 2.0 / width))
    angle = time.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
