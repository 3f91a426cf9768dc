"""Policies from the groups `model` and `kernel`, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mads4.config import (
    ModelConfig,
)
from mads4.data.dataset import Dataset
from mads4.data.statistics import normalisation
from mads4.errors import UserError
from mads4.kernels.backends import AUTO
from mads4.models import Mads4Policy
from mads4.types import EnvSpec


def policy(config: ModelConfig, spec: EnvSpec, backend: str = AUTO) -> Mads4Policy:
    """Return a freshly initialised policy that computes its kernels with `backend`."""
    options = config.model_dump(exclude={"name"})
    try:
        return Mads4Policy(spec, backend=backend, **options)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


def normalise(model: Mads4Policy, training: Dataset) -> None:
    """Give the policy the statistics of its training data."""
    found = normalisation(training, model.embedding.per_agent)
    model.embedding.set_normalisation(
        {
            "observation_mean": torch.from_numpy(found.observation_mean),
            "observation_std": torch.from_numpy(found.observation_std),
            "state_mean": torch.from_numpy(found.state_mean),
            "state_std": torch.from_numpy(found.state_std),
            "return_scale": torch.tensor(max(float(np.abs(training.returns).max()), 1e-6)),
        }
    )


def trained_policy(payload: Mapping[str, Any], precision: str = "float32") -> Mads4Policy:
    """Return the policy that a checkpoint holds, ready to act in a floating-point type."""
    model = policy(ModelConfig(**payload["model"]), EnvSpec.from_dict(payload["spec"]))
    model.load_state_dict(payload["policy"])
    return model.to(getattr(torch, precision)).eval()
