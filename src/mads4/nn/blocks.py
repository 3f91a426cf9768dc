"""The stack of S4 blocks: normalize, S4, mix the channels, add to the input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mads4.nn.recurrence import FrozenS4
from mads4.nn.s4 import S4Layer, SequenceKernel

MIXINGS = ("gelu", "glu")

StackState = tuple[Tensor, ...]
"""One (B, H, N) tensor per block."""


class StackOutput(NamedTuple):
    """A stack's outputs for a sequence or a time step."""

    y: Tensor
    """(B, T, H), with memory order (H, B, T)."""
    readout: Tensor | None
    """(B, T, H) read-outs of the last block's states; None without."""
    state: StackState | None
    """After the last step; None unless requested."""


class S4Block(nn.Module):
    """x + dropout(mix(gelu(S4(norm(x))))), where mix is linear or a gated linear unit.

    Sequences are kept as (H, B, T) here, see `mads4.kernels.convolution`.
    """

    def __init__(
        self, d_model: int, d_state: int, *, dropout: float, mixing: str, **ssm: Any
    ) -> None:
        super().__init__()
        if mixing not in MIXINGS:
            raise ValueError(f"Unknown mixing {mixing!r}; allowed: {', '.join(MIXINGS)}.")
        self.s4 = S4Layer(d_model, d_state, **ssm)
        self.gated = mixing == "glu"
        self.mix = nn.Linear(d_model, 2 * d_model if self.gated else d_model)
        self.dropout = dropout

    def forward(
        self, x: Tensor, kernel: SequenceKernel, state: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Advance a whole sequence, x (H, B, T).

        Returns:
            The block's output (H, B, T), the final state or None unless requested, and the input
            of the state-space models, (B, T, H).
        """
        u = channel_norm(x).permute(1, 2, 0)
        final: Tensor | None = None
        if return_state:
            y, final = self.s4.sequence(u, state, kernel)
        else:
            y = self.s4(u, state, kernel)
        y = functional.gelu(y.permute(2, 0, 1)).flatten(1)
        return self._add_mixed(x, y), final, u

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one time step, x (B, H) and state (B, H, N)."""
        y, following = self.s4.step(functional.layer_norm(x, x.shape[-1:]), state)
        mixed = self.mix(functional.gelu(y))
        if self.gated:
            mixed = functional.glu(mixed, dim=-1)
        return x + mixed, following

    def _add_mixed(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x + dropout(mix(y)), (H, B, T), from y (H, B T).

        Dropout drops a channel for the whole sequence, so that it is consistent over time. Random
        numbers for every element would cost an eighth of a training step on a CPU.
        """
        weight, bias = self.mix.weight, self.mix.bias.unsqueeze(-1)
        drops = self.training and self.dropout > 0.0
        if not (drops or self.gated or torch.is_autocast_enabled(x.device.type)):
            # Product and residual in one call.
            residual = x.flatten(1) + bias
            return residual.addmm_(weight, y).view_as(x)
        mixed = torch.addmm(bias, weight, y)
        if self.gated:
            mixed = functional.glu(mixed, dim=0)
        mixed = mixed.view_as(x)
        if not drops:
            return x + mixed
        keep = torch.empty_like(x[..., :1]).bernoulli_(1.0 - self.dropout)
        return torch.addcmul(x, mixed, keep, value=1.0 / (1.0 - self.dropout))


class S4Stack(nn.Module):
    """Blocks of S4 over sequences (B, T, H) or single time steps (B, H), the same function in both.

    Args:
        d_model: H, channels.
        d_state: N, real states per channel (even).
        n_layers: Number of blocks.
        dropout: Probability with which a channel of a block's contribution is dropped, for a whole
            sequence, in training.
        mixing: ``gelu`` (H to H) or ``glu`` (H to 2 H, gated).
        readout: Have read-outs of the last block's state, see `S4Layer.read_sequence`.
        **ssm: Options of `S4Layer`.

    Raises:
        ValueError: For an unknown or impossible option.
    """

    def __init__(
        self,
        d_model: int = 96,
        d_state: int = 96,
        n_layers: int = 3,
        dropout: float = 0.0,
        mixing: str = "gelu",
        readout: bool = False,
        **ssm: Any,
    ) -> None:
        super().__init__()
        options = {"dropout": dropout, "mixing": mixing, **ssm}
        blocks = [S4Block(d_model, d_state, **options) for _ in range(n_layers - 1)]
        blocks.append(S4Block(d_model, d_state, readout=readout, **options))
        self.readout = readout
        self.blocks = nn.ModuleList(blocks)

    def _layers(self) -> list[S4Block]:
        return [cast(S4Block, block) for block in self.blocks]

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StackState:
        """Return zeros, one (B, H, N) tensor per block."""
        return tuple(block.s4.initial_state(batch, device, dtype) for block in self._layers())

    def kernels(self, length: int) -> list[SequenceKernel]:
        """Return every block's kernel for sequences of up to `length` steps.

        They depend on the parameters only: compute them once per optimizer step and pass them to
        every call of `forward`; gradients of all calls add up in them.
        """
        return [block.s4.kernel(length) for block in self._layers()]

    def forward(
        self,
        u: Tensor,
        *,
        kernels: Sequence[SequenceKernel] | None = None,
        state: StackState | None = None,
    ) -> Tensor:
        """Return y (B, T, H) of `sequence`, with memory order (H, B, T)."""
        return self.sequence(u, kernels, state).y

    def sequence(
        self,
        u: Tensor,
        kernels: Sequence[SequenceKernel] | None = None,
        state: StackState | None = None,
        return_state: bool = False,
    ) -> StackOutput:
        """Return outputs, read-outs and the final state of a sequence.

        Args:
            u: (B, T, H), of any strides; a permuted (H, B, T) tensor is taken without a copy.
            kernels: From `kernels`, for at least T steps; computed here if None.
            state: State left by the preceding steps; None for zero.
            return_state: Also return the final state.
        """
        kernels = kernels if kernels is not None else self.kernels(u.shape[1])
        x = u.permute(2, 0, 1).contiguous()
        inner, finals = u, []
        before: Sequence[Tensor | None] = [None] * len(self.blocks) if state is None else state
        for block, kernel, start in zip(self._layers(), kernels, before, strict=True):
            x, final, inner = block(x, kernel, start, return_state)
            if final is not None:
                finals.append(final)
        readout = None
        if self.readout:
            readout = self._layers()[-1].s4.read_sequence(inner, before[-1], kernels[-1])
        return StackOutput(x.permute(1, 2, 0), readout, tuple(finals) if return_state else None)

    def read(self, state: StackState) -> Tensor | None:
        """Return the read-outs of the last block's state, (B, H); None without."""
        return self._layers()[-1].s4.read(state[-1]) if self.readout else None

    def step(self, u: Tensor, state: StackState) -> tuple[Tensor, StackState]:
        """Advance one time step, u (B, H), and return y (B, H) and the next state."""
        following: list[Tensor] = []
        for block, before in zip(self._layers(), state, strict=True):
            u, after = block.step(u, before)
            following.append(after)
        return u, tuple(following)

    def frozen(self) -> S4Stack:
        """Return a copy that can only be stepped and read, its coefficients fixed."""
        made = copy.deepcopy(self)
        for block, own in zip(made._layers(), self._layers(), strict=True):
            block.add_module("s4", FrozenS4(own.s4))
        return made


class _ChannelNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        normal = x - x.mean(0)
        scale = torch.square(normal).mean(0).add_(eps).rsqrt_()
        normal.mul_(scale)
        ctx.save_for_backward(normal, scale)
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        normal, scale = ctx.saved_tensors
        shared = (grad * normal).mean(0)
        result = torch.addcmul(grad, normal, shared, value=-1.0)
        result.sub_(grad.mean(0)).mul_(scale)
        return result, None


def channel_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize (H, B, T) to zero mean and unit variance over H.

    Without scale and shift: the state-space model that follows is linear per channel, so its C and
    D already carry a scale. A hand-written pass because PyTorch's kernel wants H last.
    """
    return cast(Tensor, _ChannelNorm.apply(x, eps))  # type: ignore[no-untyped-call]
