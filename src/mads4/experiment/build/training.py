"""What a trainer needs, from the group `trainer`."""

from __future__ import annotations

import torch

from mads4.config import OfflineTrainerConfig
from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler
from mads4.training.loop import Intervals


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
