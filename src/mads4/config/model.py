"""The policy and its kernels: the groups `model` and `kernel`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from mads4.config.fields import Section
from mads4.models import CustomModelConfig, Mads4Config, MlpConfig, TransformerConfig

ModelConfig: TypeAlias = Annotated[
    Mads4Config | MlpConfig | TransformerConfig | CustomModelConfig, Field(discriminator="name")
]


class KernelConfig(Section):
    """How the S4 convolution kernel is computed."""

    backend: str = "auto"
    """auto takes the fastest that runs; torch always runs; keops and cuda where installed."""


__all__ = [
    "CustomModelConfig",
    "KernelConfig",
    "Mads4Config",
    "MlpConfig",
    "ModelConfig",
    "TransformerConfig",
]
