"""Offline training from a data set."""

from __future__ import annotations

import torch

from mads4.algorithms.base import Context, OfflineAlgorithm
from mads4.config import Config, OfflineTrainerConfig
from mads4.data.dataset import Dataset
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.experiment import components, datasets
from mads4.experiment.sources import initialize, policy_checkpoint
from mads4.experiment.stage import Stage
from mads4.io import json_safe
from mads4.training.offline import OfflineTrainer, Select

SPLIT_SEED = 0
"""The held-out episodes are the same for all runs on a data set, so that losses compare."""


def pretraining(config: Config, make_env: EnvFactory, device: torch.device) -> Stage:
    """Return the offline stage that `config` describes.

    Raises:
        UserError: data, model or checkpoint do not fit.
    """
    data = datasets.dataset(config.dataset, make_env, config.progress)
    assert isinstance(config.trainer, OfflineTrainerConfig)
    trainer = _trainer(config, config.trainer, data, device)
    return Stage(
        label="training",
        config=config,
        trainer=trainer,
        policy=trainer.policy,
        intervals=components.intervals(config.trainer),
        make_env=make_env,
        spec=data.spec,
        data=json_safe(data.summary()),  # a user's own reader may describe it in numpy types
    )


def _trainer(
    config: Config, settings: OfflineTrainerConfig, data: Dataset, device: torch.device
) -> OfflineTrainer:
    if len(data) < 2:
        raise UserError(
            f"The data set '{data.name}' has {len(data)} episode; training needs at least two, "
            "one of them to hold out for the validation loss."
        )
    training, held_out = data.split(config.dataset.validation_fraction, SPLIT_SEED)
    model = components.policy(config.model, data.spec, config.kernel.name)
    components.normalize(model, training)
    if config.init_from is not None:
        payload = policy_checkpoint(config.init_from)
        initialize(model, payload, config.init_from, data.spec)
    sampler = components.sampler(settings, training, config.seed, device)
    context = Context(seed=config.seed, device=device, steps=settings.steps)
    algorithm = config.algorithm.build(model.to(device), context)
    if not isinstance(algorithm, OfflineAlgorithm):
        raise UserError(
            f"algorithm: {type(algorithm).__name__} is no offline algorithm; "
            "use one for trainer=offline, such as algorithm=bc."
        )
    default: Select = "validation_loss" if algorithm.selects_by_validation_loss else "last"
    return OfflineTrainer(algorithm, sampler, held_out, settings.select or default)
