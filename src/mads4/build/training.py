"""What a trainer needs, from the group `trainer`."""

from __future__ import annotations

from mads4.config import OfflineTrainerConfig
from mads4.train.loop import Intervals
from mads4.train.offline import OfflineSettings


def offline_settings(config: OfflineTrainerConfig) -> OfflineSettings:
    """Return the optimisation's numbers."""
    return OfflineSettings(**config.model_dump(include=set(OfflineSettings.__dataclass_fields__)))


def intervals(config: OfflineTrainerConfig) -> Intervals:
    """Return when to log, validate and save."""
    return Intervals(
        steps=config.steps,
        log=config.log_interval,
        validation=config.validation_interval,
        checkpoint=config.checkpoint_interval,
        keep=config.keep_every,
    )
