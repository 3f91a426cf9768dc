"""A decision transformer over each agent's own history, the baseline of S4.

Every agent-step is three tokens, in this order: the agent's previous action, the return-to-go, and
its observation with the global state, whose output gives the action logits (Chen et al. 2021,
arXiv 2106.01345, with the action moved one place so that a step begins with what came before it).
Attention is causal over all earlier tokens of the same agent; agents share the weights and do not
exchange anything, so that all of them are one batch in both views.

`forward` runs whole sequences, `step` one time step with the keys and values of earlier tokens
cached; both give the same logits. Axes: ``B`` batch, ``T`` time, ``N`` agents, ``D`` width,
``rows`` = B · N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.base import choose_actions, parameter_count
from mads4.models.embedding import InputEmbedding
from mads4.types import EnvSpec, PolicyInput, PolicyOutput, SequenceBatch

TOKENS = 3
"""Per agent-step."""

_FIRST_CAPACITY = 64
_LONGEST_PERIOD = 10_000.0


@dataclass(frozen=True)
class TransformerState:
    """Keys and values of all tokens so far, of B environments.

    The caches are written in place and shared by all states that follow from one another: go on
    from the latest only (to repeat a step is harmless, it writes the same again).
    """

    caches: tuple[Tensor, ...]
    """Keys and values of a layer, (2, rows, heads, capacity, D / heads)."""
    previous_action: Tensor
    """(B, N) int64, -1 before the first step."""
    steps: int = 0
    """Time steps that the caches hold, of `TOKENS` tokens each."""


class TransformerPolicy(nn.Module):
    """A causal transformer for all agents, called as `mads4.models.Mads4Policy` is.

    Args:
        spec: the environment's sizes.
        n_layers: transformer layers (normalization first).
        d_model: D, even, a multiple of `n_heads`.
        n_heads: attention heads.
        feed_forward: hidden units of a layer's feed-forward part.
        dropout: of what each part of a layer adds, in training; attention weights are not
            dropped, as PyTorch's fast attention on CPUs cannot.

    Raises:
        ValueError: if `d_model` cannot be divided into the heads.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        n_layers: int = 3,
        d_model: int = 64,
        n_heads: int = 4,
        feed_forward: int = 176,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if d_model % n_heads or d_model % 2:
            raise ValueError(
                f"d_model = {d_model}: give an even number that n_heads = {n_heads} divides."
            )
        self.spec = spec
        self.n_heads = n_heads
        self.seen = InputEmbedding(
            spec, d_model, return_conditioning=False, use_previous_action=False
        )
        self.asked = nn.Linear(1, d_model)
        self.done = nn.Embedding(spec.n_actions + 1, d_model)
        layers = [_Layer(d_model, n_heads, feed_forward, dropout) for _ in range(n_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, spec.n_actions)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Return action logits (B, T, N, n_actions), -inf where unavailable."""
        size, steps, n_agents = batch.action.shape
        tokens = self._tokens(
            batch.observation, batch.state, batch.previous_action, batch.return_to_go, 0
        )
        x = tokens.permute(0, 2, 1, 3, 4).reshape(size * n_agents, TOKENS * steps, -1)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x[:, TOKENS - 1 :: TOKENS]))
        logits = logits.view(size, n_agents, steps, -1).transpose(1, 2)
        masked: Tensor = logits.masked_fill(~batch.available_actions, -torch.inf)
        return masked

    def initial_state(self, batch: int) -> TransformerState:
        """Return the state of `batch` environments before their first step."""
        return self.state_after(0, batch, _FIRST_CAPACITY)

    def state_after(self, steps: int, batch: int, capacity: int) -> TransformerState:
        """Return a state of the form, but not the contents, it has after so many steps.

        What a step costs depends on the form only, so that it can be timed without an episode.
        """
        weight = self.head.weight
        rows, width = batch * self.spec.n_agents, weight.shape[1] // self.n_heads
        shape = (2, rows, self.n_heads, TOKENS * capacity, width)
        return TransformerState(
            caches=tuple(weight.new_zeros(shape) for _ in self.layers),
            previous_action=torch.full((batch, self.spec.n_agents), -1, device=weight.device),
            steps=steps,
        )

    def step(
        self, inputs: PolicyInput, state: TransformerState
    ) -> tuple[PolicyOutput, TransformerState]:
        """Decide for one time step of B environments; equals `forward` step by step."""
        tokens = self._tokens(
            inputs.observation.unsqueeze(1),
            inputs.state.unsqueeze(1),
            state.previous_action.unsqueeze(1),
            inputs.return_to_go.unsqueeze(1),
            state.steps,
        )
        x = tokens[:, 0].flatten(0, 1)
        start = TOKENS * state.steps
        known = start + TOKENS
        visible = torch.ones(TOKENS, known, dtype=torch.bool, device=x.device).tril(start)
        caches = tuple(_with_room(cache, known) for cache in state.caches)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache[..., :known, :], visible)
        logits = self.head(self.norm(x[:, -1])).view(*state.previous_action.shape, -1)
        logits = logits.masked_fill(~inputs.available_actions, -torch.inf)
        action = choose_actions(logits, inputs.uniform)
        return PolicyOutput(action, logits), TransformerState(caches, action, state.steps + 1)

    def _tokens(
        self,
        observation: Tensor,
        state: Tensor,
        previous_action: Tensor,
        return_to_go: Tensor,
        start: int,
    ) -> Tensor:
        """Return (B, T, N, TOKENS, D) of steps `start`, `start` + 1, … as `SequenceBatch` has them.

        All agents have the same return, so that its token differs by what tells agents apart only.
        """
        seen = self.seen(observation, state, previous_action, return_to_go)
        scaled = (return_to_go.to(seen.dtype) / self.seen.return_scale)[..., None, None]
        asked = (self.asked(scaled) + self.seen.agent.weight).expand_as(seen)
        done = functional.embedding(previous_action + 1, self.done.weight)
        time = torch.arange(start, start + seen.shape[1], device=seen.device)
        places = _sinusoids(time, seen.shape[-1]).to(seen.dtype)
        return torch.stack([done, asked, seen], dim=3) + places[:, None, None]


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
        self, x: Tensor, cache: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Return (rows, L, D).

        Args:
            x: (rows, L, D).
            cache: (2, rows, heads, known, D / heads), keys and values, the last L of which are
                written here; None if `x` is the whole sequence.
            visible: (L, known) bool, which known tokens each of the L may attend to.
        """
        projected = self.project(self.norms[0](x)).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, -x.shape[1] :] = key
            cache[1, :, :, -x.shape[1] :] = value
            key, value = cache
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, is_causal=cache is None
        )
        x = x + self.dropout(self.mix(attended.transpose(1, 2).flatten(2)))
        y: Tensor = x + self.dropout(self.feed_forward(self.norms[1](x)))
        return y


def of_size(
    spec: EnvSpec, parameters: int, *, n_layers: int, d_model: int, n_heads: int = 4
) -> TransformerPolicy:
    """Return the policy whose feed-forward width brings it closest to so many parameters."""
    least = parameter_count(
        TransformerPolicy(spec, n_layers=n_layers, d_model=d_model, n_heads=n_heads, feed_forward=1)
    )
    per_unit = n_layers * (2 * d_model + 1)
    units = max(1, 1 + round((parameters - least) / per_unit))
    return TransformerPolicy(
        spec, n_layers=n_layers, d_model=d_model, n_heads=n_heads, feed_forward=units
    )


def _with_room(cache: Tensor, known: int) -> Tensor:
    """Return the cache, or a copy of twice the capacity if `known` tokens do not fit."""
    capacity = cache.shape[-2]
    if known <= capacity:
        return cache
    return functional.pad(cache, (0, 0, 0, max(capacity, known - capacity)))


def _sinusoids(time: Tensor, width: int) -> Tensor:
    """Return (T, width) of sines and cosines with periods in geometric progression.

    Vaswani et al. 2017, section 3.5: without parameters, and for any length.
    """
    halves = torch.arange(width // 2, device=time.device)
    frequency = torch.exp(halves * (-math.log(_LONGEST_PERIOD) * 2.0 / width))
    angle = time.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
