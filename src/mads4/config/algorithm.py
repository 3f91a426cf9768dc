"""Algorithms: the group `algorithm`; each schema stands with its algorithm."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from mads4.algorithms.base import CustomAlgorithm
from mads4.algorithms.bc import BCConfig
from mads4.algorithms.icq import ICQConfig
from mads4.algorithms.mappo import MAPPOConfig

AlgorithmConfig: TypeAlias = Annotated[
    BCConfig | ICQConfig | MAPPOConfig | CustomAlgorithm, Field(discriminator="name")
]
