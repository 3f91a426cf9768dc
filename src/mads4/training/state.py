"""Everything beyond weights and optimizer that an exact continuation of training needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from mads4.errors import UserError


@dataclass
class TrainState:
    """Where training stands. Batches are a function of (seed, step), so no sampler is stored."""

    step: int = 0
    """Optimizer steps taken."""
    best_step: int = 0
    """Step of the best weights so far; 0 before the first validation."""
    best_criterion: float = float("inf")
    """What they were chosen by (less is better): offline the validation loss, in nats per
    agent-step; online minus the return of the training episodes."""
    seconds: float = 0.0
    """Wall-clock time spent on the steps taken, over all processes of the run."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainState:
        """Restore what `to_dict` returned.

        Raises:
            UserError: another version of mads4 wrote it.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise UserError(
                "The run was begun by another version of mads4. Go on with that version, or start "
                "a new run (in a new directory, with init_from=<this run> to keep the weights)."
            )
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
