"""Layer normalization over the first axis, for activations kept as (H, B, T)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


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
