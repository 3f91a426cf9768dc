"""`mads4 train`: offline, online, or the one and then the other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from mads4.config import Config, OfflineOnlineTrainerConfig, OfflineTrainerConfig
from mads4.envs.registry import EnvFactory
from mads4.evaluation.record import TrainFigures
from mads4.experiment import components
from mads4.experiment.evaluating import evaluated, publish
from mads4.experiment.fine_tuning import fine_tuning
from mads4.experiment.pretraining import pretraining
from mads4.experiment.stage import Stage, run_stage
from mads4.logging import Tracker
from mads4.models.base import parameter_count
from mads4.training import checkpoint
from mads4.training.checkpoint import TrainState

OFFLINE_FOLDER = "offline"
"""Directory of the first part of ``trainer=offline_online``, within the run's."""


def train(config: Config, run_dir: Path) -> None:
    """Train (or go on with it), evaluate the best policy and draw the result.

    Raises:
        UserError: a mistake of the user.
        KeyboardInterrupt: interrupted; everything needed to go on has been saved.
    """
    device = components.device(config.device, config.threads)
    kernel = config.kernel.choose(device)
    make_env = components.environment(config.env)
    trainer = config.trainer
    if isinstance(trainer, OfflineOnlineTrainerConfig):
        folder = run_dir / OFFLINE_FOLDER
        if not _finished(folder, trainer.offline.steps):
            first = config.model_copy(update={"trainer": trainer.offline})
            stage = _stage(first, make_env, device)
            run_stage(stage, folder, device, kernel, lambda state, tracker: None)
        second = {"trainer": trainer.online, "algorithm": config.online_algorithm}
        config = config.model_copy(update={**second, "init_from": str(folder)})
    began = time.perf_counter()
    stage = _stage(config, make_env, device)
    prepared = time.perf_counter() - began

    def finish(state: TrainState, tracker: Tracker) -> None:
        payload = checkpoint.load(checkpoint.find(run_dir))
        times = {"collect_s": prepared, "train_s": state.seconds}
        record = evaluated(
            config.name, payload, make_env, config, run_dir, device, times, stage.before
        )
        rate = stage.trainer.agent_steps(state.step) / max(state.seconds, 1e-9)
        trained = {
            "train": TrainFigures(**_train_summary(stage, state)),
            "time": record.time | {"agent_steps_per_s": rate},
        }
        publish(record.model_copy(update=trained), run_dir, tracker, state.step)

    run_stage(stage, run_dir, device, kernel, finish)


def _stage(config: Config, make_env: EnvFactory, device: torch.device) -> Stage:
    """Return the stage that `config` describes; what it draws depends on the seed alone."""
    torch.manual_seed(config.seed)
    kind = pretraining if isinstance(config.trainer, OfflineTrainerConfig) else fine_tuning
    return kind(config, make_env, device)


def _finished(folder: Path, steps: int) -> bool:
    """Whether a training in `folder` has taken all its steps."""
    last = folder / checkpoint.FOLDER / "last.pt"
    return last.exists() and int(checkpoint.load(last)["state"]["step"]) >= steps


def _train_summary(stage: Stage, state: TrainState) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "trainer": stage.config.trainer.name,
        "steps": state.step,
        "best_step": state.best_step,
        "parameters": parameter_count(stage.policy),
    }
    return figures | stage.trainer.summary(state)
