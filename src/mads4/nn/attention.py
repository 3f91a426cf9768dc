"""Causal self-attention with a sliding window, over whole sequences and from a cache.

Attention reaches back `window` time steps *in every layer*, so that a key never changes once it is
computed: a ring buffer of the latest keys and values is all that a step needs, and both views agree
for episodes of any length. Through L layers, information travels up to L (`window` - 1) steps.

Axes: ``rows`` sequences, ``T`` time steps of ``tokens`` tokens each, ``L`` = T · tokens, ``D``
width, ``K`` time steps in the cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LONGEST_PERIOD = 10_000.0
"""Of the positional encoding, in time steps divided by 2π."""


class WindowAttention:
    """Attention within sequences that begin with an episode.

    Args:
        time: (T,) 0, 1, …
        window: time steps that attention reaches back.
        tokens: of a time step.
    """

    def __init__(self, time: Tensor, window: int, tokens: int) -> None:
        self.mask = _attention_mask(time, time, window, tokens) if len(time) > window else None

    def __call__(self, query: Tensor, new: Tensor, cache: None) -> tuple[Tensor, None]:
        """Return the attended values (rows, heads, L, D / heads); `new` has keys and values."""
        key, value = new.unbind(1)
        causal = self.mask is None
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.mask, is_causal=causal
        )
        return attended, None


class CachedAttention:
    """Attention to these and to cached time steps.

    The cache is a ring buffer: step t is in slot t mod K.

    Args:
        past: (rows,) steps of the episode in the cache or overwritten.
        length: T, new steps.
        window: time steps that attention reaches back, at most K.
        slots: K.
        tokens: of a time step.
        in_place: write into the given cache.
    """

    def __init__(
        self,
        past: Tensor,
        length: int,
        window: int,
        slots: int,
        tokens: int,
        in_place: bool,
    ) -> None:
        self.length, self.tokens, self.in_place = length, tokens, in_place
        time = past.unsqueeze(-1) + torch.arange(length, device=past.device)
        self.slots = (time[:, -slots:] % slots)[:, None, None, :, None, None]
        if length == 1:  # the new step is in the ring already when attention runs
            keys = _ring_steps(past + 1, slots)
        else:
            keys = torch.cat([_ring_steps(past, slots), time], dim=-1)
        self.mask = _attention_mask(time, keys, window, tokens).unsqueeze(1)

    def __call__(self, query: Tensor, new: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attended values (rows, heads, L, D / heads), and the cache afterwards.

        Args:
            query: (rows, heads, L, D / heads), L = T times tokens.
            new: (rows, 2, heads, L, D / heads), keys and values of the new steps.
            cache: (rows, 2, heads, K, tokens, D / heads).
        """
        by_step = new.reshape(*new.shape[:3], self.length, self.tokens, -1)
        by_step = by_step[:, :, :, -cache.shape[3] :]
        scatter = cache.scatter_ if self.in_place else cache.scatter
        after = scatter(3, self.slots.expand(by_step.shape), by_step)
        attended_to = after.flatten(3, 4)
        if self.length > 1:
            attended_to = torch.cat([cache.flatten(3, 4), new], dim=3)
        key, value = attended_to.unbind(1)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        return attended, after


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward network, pre-norm, each with a residual connection."""

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
        self, x: Tensor, cache: Tensor | None, attention: WindowAttention | CachedAttention
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output (rows, L, D) for `x` (rows, L, D), and the cache afterwards."""
        projected = self.project(self.norms[0](x)).unflatten(-1, (3, self.n_heads, -1))
        projected = projected.permute(0, 2, 3, 1, 4)
        attended, cache = attention(projected[:, 0], projected[:, 1:], cache)  # type: ignore[arg-type]
        x = x + self.dropout(self.mix(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(self.norms[1](x))), cache


def _ring_steps(past: Tensor, slots: int) -> Tensor:
    """Return the step in each slot of a ring buffer, (rows, K) int64; negative for none.

    Args:
        past: (rows,) steps written so far.
        slots: K.
    """
    latest = past.unsqueeze(-1) - 1
    return latest - (latest - torch.arange(slots, device=past.device)) % slots


def _attention_mask(time: Tensor, keys: Tensor, window: int, tokens: int) -> Tensor:
    """Return the mask (…, T · tokens, S · tokens), True where a query may attend to a key.

    Args:
        time: (…, T) steps that attend.
        keys: (…, S) steps to attend to; negative ones are masked.
        window: time steps that attention reaches back.
        tokens: of a time step; each attends to those before it.
    """
    token = torch.arange(tokens, device=time.device)
    query = (time.unsqueeze(-1) * tokens + token).flatten(-2).unsqueeze(-1)
    key = (keys.unsqueeze(-1) * tokens + token).flatten(-2).unsqueeze(-2)
    first = (query // tokens - window + 1).clamp(min=0) * tokens
    return (key <= query) & (key >= first)


def sinusoids(time: Tensor, width: int) -> Tensor:
    """Return (…, width) of sines and cosines with periods in geometric progression.

    The positional encoding of Vaswani et al. 2017, section 3.5.
    """
    halves = torch.arange(width // 2, device=time.device)
    frequency = torch.exp(halves * (-math.log(LONGEST_PERIOD) * 2.0 / width))
    angle = time.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
