"""Policies from the groups `model` and `kernel`, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from mads4.config import MlpConfig, ModelConfig
from mads4.data.dataset import Dataset
from mads4.data.statistics import normalization
from mads4.errors import UserError
from mads4.kernels.backends import AUTO
from mads4.models import Mads4Policy, MlpPolicy, SequencePolicy
from mads4.types import EnvSpec


def policy(config: ModelConfig, spec: EnvSpec, backend: str = AUTO) -> SequencePolicy:
    """Return a freshly initialized policy that computes its kernels, if any, with `backend`."""
    options = config.model_dump(exclude={"name"})
    if isinstance(config, MlpConfig):
        return MlpPolicy(spec, **options)
    try:
        return Mads4Policy(spec, backend=backend, **options)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


def normalize(model: SequencePolicy, training: Dataset, least_return: float = 1e-6) -> None:
    """Give the policy the statistics of its training data.

    Returns are scaled by the largest one, or by `least_return` if none is as large.
    """
    found = normalization(training, per_agent=model.embedding.normalization == "per_agent")
    model.embedding.set_normalization(
        {
            "observation_mean": torch.from_numpy(found.observation_mean),
            "observation_std": torch.from_numpy(found.observation_std),
            "state_mean": torch.from_numpy(found.state_mean),
            "state_std": torch.from_numpy(found.state_std),
            "return_scale": torch.tensor(max(float(np.abs(training.returns).max()), least_return)),
        }
    )


def trained_policy(payload: Mapping[str, Any], precision: str = "float32") -> SequencePolicy:
    """Return the policy that a checkpoint holds, ready to act in a floating-point type."""
    options: ModelConfig = TypeAdapter(ModelConfig).validate_python(payload["model"], strict=False)
    model = policy(options, EnvSpec.from_dict(payload["spec"]))
    model.load_state_dict(payload["policy"])
    return model.to(getattr(torch, precision)).eval()
