"""Everything beyond weights and optimiser that an exact continuation of training needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass
class TrainState:
    """Where training stands. Batches are a function of (seed, step), so no sampler is stored."""

    step: int = 0
    """Optimiser steps taken."""
    best_step: int = 0
    """Step of the lowest validation loss so far; 0 before the first validation."""
    best_validation_loss: float = float("inf")
    """Nats per agent-step."""
    seconds: float = 0.0
    """Wall-clock time spent on the steps taken, over all processes of the run."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainState:
        """Restore what `to_dict` returned."""
        return cls(**values)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return PyTorch's random streams (dropout draws from them)."""
    streams: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        streams["cuda"] = torch.cuda.get_rng_state(device)
    return streams


def restore_random_state(streams: Mapping[str, Any], device: torch.device) -> None:
    """Set PyTorch's random streams to what `random_state` returned."""
    torch.set_rng_state(streams["cpu"])
    if device.type == "cuda" and "cuda" in streams:
        torch.cuda.set_rng_state(streams["cuda"], device)
