"""Online training: of a pretrained policy, or from scratch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from mads4.algorithms.base import Context
from mads4.algorithms.mappo import MAPPO, MAPPOConfig
from mads4.config import Config, OnlineTrainerConfig
from mads4.data.dataset import Dataset
from mads4.envs.protocol import env_spec
from mads4.envs.registry import EnvFactory
from mads4.experiment import components, datasets
from mads4.experiment.sources import initialize, known_returns, policy_checkpoint
from mads4.experiment.stage import Stage, plain
from mads4.io import json_safe
from mads4.models import SequencePolicy
from mads4.training.collector import Collector
from mads4.training.loop import Intervals
from mads4.training.online import OnlineTrainer

_LOG = logging.getLogger(__name__)


def fine_tuning(config: Config, make_env: EnvFactory, device: torch.device) -> Stage:
    """Return the online stage that `config` describes.

    With ``init_from`` the model options are the checkpoint's. A data set is needed only for
    behavior cloning.

    Raises:
        UserError: checkpoint, environment or data do not fit.
    """
    settings = config.trainer
    assert isinstance(settings, OnlineTrainerConfig)
    before = None if config.init_from is None else policy_checkpoint(config.init_from)
    if before is not None:
        config = _with_model_of(config, before)
    spec = env_spec(make_env)
    model = components.policy(config.model, spec, config.kernel.name)
    data, chosen = None, config.algorithm
    if isinstance(chosen, MAPPOConfig) and chosen.bc_coef > 0.0:
        data = datasets.dataset(config.dataset, make_env, config.progress)
    collector = Collector(make_env, settings, config.seed, device)
    if before is None:
        _measure_inputs(model.to(device), collector)
    else:
        initialize(model, before, str(config.init_from), spec)
    context = Context(
        seed=config.seed,
        device=device,
        steps=settings.iterations,
        pretrained=before is not None,
        data=data,
    )
    algorithm = chosen.build(model.to(device), context)
    assert isinstance(algorithm, MAPPO), "checked with the configuration"
    known = [] if before is None else [float(known_returns(before)["return_max"])]
    known += [] if data is None else [float(data.returns.max())]
    trainer = OnlineTrainer(algorithm, collector, settings, max(known, default=0.0), device)
    return Stage(
        label="training" if before is None else "fine-tuning",
        config=config,
        trainer=trainer,
        policy=model,
        intervals=_intervals(settings),
        make_env=make_env,
        spec=spec,
        data=_about_data(data, before),
        before=before,
        close=trainer.close,
    )


def _with_model_of(config: Config, before: Mapping[str, Any]) -> Config:
    """Return `config` with the model options of a checkpoint; say which differ."""
    factory = components.allowed_factory(config)
    model = components.model_settings(before, factory, "model=custom model.factory")
    given, taken = plain(config.model), plain(model)
    changed = [f"model.{key}={value}" for key, value in taken.items() if given.get(key) != value]
    if changed:
        _LOG.info("model options of %s: %s", config.init_from, ", ".join(changed))
    return config.model_copy(update={"model": model})


def _measure_inputs(model: SequencePolicy, collector: Collector) -> None:
    """Give a fresh policy the statistics of what it meets when it plays as it is."""
    played = collector.collect(model.eval(), 0, best_return=0.0)
    episodes = [one.episode for one in played if one.episode is not None]
    components.normalize(model, Dataset.from_episodes(model.spec, episodes), least_return=1.0)


def _about_data(data: Dataset | None, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the summary of the data that the policy has learned from, if any."""
    if data is not None:
        return dict(json_safe(data.summary()))
    return {} if before is None else dict(before["data"])


def _intervals(config: OnlineTrainerConfig) -> Intervals:
    return Intervals(
        steps=config.iterations,
        log=config.log_interval,
        validation=1,
        checkpoint=config.checkpoint_interval,
        keep=config.save_interval,
        evaluation=config.eval_interval,
    )
