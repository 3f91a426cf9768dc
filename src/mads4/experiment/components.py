"""Configuration → objects: devices, environments, policies, and what a trainer needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from mads4.config import OfflineTrainerConfig
from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler
from mads4.data.statistics import normalization
from mads4.envs.registry import EnvFactory, EnvSettings
from mads4.errors import UserError
from mads4.kernels.backends import AUTO
from mads4.models import MODELS, CustomModelConfig, ModelSettings, SequencePolicy
from mads4.training.loop import Intervals
from mads4.types import EnvSpec


def device(name: str, threads: int | None = None) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` … stands for, and set CPU threads.

    Raises:
        UserError: a device that PyTorch does not find here.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(name)
    available = {
        "cpu": True,
        "cuda": (chosen.index or 0) < torch.cuda.device_count(),
    }
    if not available[chosen.type]:
        found = [kind for kind, here in available.items() if here]
        raise UserError(
            f"device: '{name}' is not available here; PyTorch {torch.__version__} finds "
            f"{', '.join(found)}. Use device=auto."
        )
    return chosen


def environment(config: EnvSettings) -> EnvFactory:
    """Return a picklable maker of environments."""
    return EnvFactory.of(config)


def policy(config: ModelSettings, spec: EnvSpec, backend: str = AUTO) -> SequencePolicy:
    """Return a freshly initialized policy that computes its kernels, if any, with `backend`."""
    return config.build(spec, backend)


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


def allowed_factory(config: Any) -> str | None:
    """Return the factory of a policy that a command's configuration names, if any."""
    model = getattr(config, "model", None)
    if isinstance(model, CustomModelConfig):
        return model.factory
    return getattr(config, "model_factory", None)


def model_settings(
    payload: Mapping[str, Any], factory: str | None = None, option: str = "model_factory"
) -> ModelSettings:
    """Return the settings of the policy that a checkpoint holds.

    Args:
        payload: a checkpoint's.
        factory: function that the user gave on the command line for a policy of their own.
        option: the command-line option that it is given by, for error messages.

    Raises:
        UserError: the checkpoint names a factory, which is not imported unless it is `factory`.
    """
    values = payload["model"]
    try:
        settings = MODELS.schema(str(values["name"])).model_validate(values, strict=False)
    except ValidationError as error:
        raise UserError(
            f"The checkpoint's model settings do not fit this version of mads4: {error}"
        ) from error
    if isinstance(settings, CustomModelConfig) and settings.factory != factory:
        raise UserError(
            f"The checkpoint's policy comes from the factory '{settings.factory}', and code that a "
            f"file names is not imported. If you trust it, give {option}={settings.factory}."
        )
    return settings


def trained_policy(
    payload: Mapping[str, Any],
    precision: str = "float32",
    factory: str | None = None,
    backend: str = AUTO,
) -> SequencePolicy:
    """Return the policy that a checkpoint holds, ready to act in a floating-point type.

    Args:
        payload: a checkpoint's.
        precision: ``float32`` or ``float64``.
        factory: as for `model_settings`.
        backend: as for `policy`; never what the checkpoint's own training used.

    Raises:
        UserError: as `model_settings` does.
    """
    model = policy(model_settings(payload, factory), EnvSpec.from_dict(payload["spec"]), backend)
    model.load_state_dict(payload["policy"])
    return model.to(getattr(torch, precision)).eval()


def sampler(
    config: OfflineTrainerConfig, training: Dataset, seed: int, device: torch.device
) -> SequenceSampler | ConsecutiveSampler:
    """Return what draws the training's batches, ready for copies to `device`."""
    pin = device.type == "cuda"
    if config.stateful:
        assert config.context_length is not None, "checked with the configuration"
        return ConsecutiveSampler(
            training, config.batch_size, config.context_length, seed, pin_memory=pin
        )
    return SequenceSampler(
        training,
        config.batch_size,
        config.context_length,
        seed,
        sampling=config.sampling,
        return_temperature=config.return_temperature,
        pin_memory=pin,
    )


def intervals(config: OfflineTrainerConfig) -> Intervals:
    """Return when to log, validate and save."""
    return Intervals(
        steps=config.steps,
        log=config.log_interval,
        validation=config.validation_interval,
        checkpoint=config.checkpoint_interval,
        keep=config.save_interval,
        evaluation=config.eval_interval,
    )
