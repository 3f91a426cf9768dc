"""A training from its first step to its last, in a directory of its own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mads4.config import Config, OfflineTrainerConfig, OnlineTrainerConfig
from mads4.envs.protocol import env_spec
from mads4.envs.registry import EnvFactory
from mads4.evaluation.evaluator import Evaluator
from mads4.evaluation.metrics import target_returns
from mads4.io import write_json
from mads4.kernels.backends import Choice
from mads4.logging import Tracker, progress_bar
from mads4.provenance import PROVENANCE_FILE, collect_provenance
from mads4.settings import Settings
from mads4.training import checkpoint
from mads4.training.checkpoint import TrainState
from mads4.training.loop import Checkpoints, Intervals, Trainer, fit
from mads4.types import EnvSpec

PERIODIC_SEED = 1_000_003
"""Keeps the episodes of periodic evaluations apart from those of the final one."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """What is trained, how long, and what its checkpoints say about it."""

    label: str
    """For the progress bar."""
    config: Config
    """As it is in force: with the stage's own trainer, and the model as it was built."""
    trainer: Trainer
    policy: torch.nn.Module
    intervals: Intervals
    make_env: EnvFactory
    spec: EnvSpec
    data: Mapping[str, Any]
    """Summary of the data set, as JSON values; empty where there is none."""
    before: Mapping[str, Any] | None = None
    """Checkpoint that training began with."""
    close: Callable[[], None] = field(default=lambda: None)
    """Ends what the trainer holds beyond memory; may be called again."""

    def about(self) -> dict[str, Any]:
        """Return what a checkpoint says besides the weights."""
        return {
            "model": plain(self.config.model),
            "spec": self.spec.to_dict(),
            "env": self.make_env.to_dict(),
            "data": dict(self.data),
            "seed": self.config.seed,
            "config": plain(self.config),
        }


def run_stage(
    stage: Stage,
    run_dir: Path,
    device: torch.device,
    kernel: Choice,
    finish: Callable[[TrainState, Tracker], None],
) -> None:
    """Train to the end, or go on to it, then call `finish` with the tracker still open."""
    config = stage.config
    with ExitStack() as stack:
        stack.callback(stage.close)
        write_json(run_dir / PROVENANCE_FILE, _provenance(stage, device, kernel))
        checkpoints = Checkpoints(run_dir / checkpoint.FOLDER, stage.about())
        state = checkpoints.restore(stage.trainer)
        _LOG.info("run directory: %s", run_dir)
        if state.step:
            _LOG.info("continuing at step %d", state.step)
        tracker = stack.enter_context(
            Tracker(run_dir, config.logger.tensorboard, start_step=state.step)
        )
        tracker.text("config", _as_text(config))
        with progress_bar(stage.label, stage.intervals.steps, config.progress) as advance:

            def on_step(now: TrainState, metrics: Mapping[str, float]) -> None:
                advance(now.step, stage.trainer.progress(metrics))

            evaluate = periodic_evaluation(stage, device)
            state = fit(
                stage.trainer, state, stage.intervals, checkpoints, tracker, on_step, evaluate
            )
        stage.close()  # the evaluation has environments of its own
        finish(state, tracker)


def periodic_evaluation(stage: Stage, device: torch.device) -> Callable[[], dict[str, float]]:
    """Return what plays some episodes with the policy as it is, for the first target return.

    The episodes are the same each time, and others than those of the final evaluation. Training's
    random streams are left as they are.
    """
    config = stage.config
    trainer = config.trainer
    assert isinstance(trainer, OfflineTrainerConfig | OnlineTrainerConfig), "one phase"
    seed = config.evaluator.seed + PERIODIC_SEED
    own = {"seed": seed, "episodes": trainer.eval_episodes, "video": False, "num_workers": 0}
    settings = config.evaluator.model_copy(update=own)

    def evaluate() -> dict[str, float]:
        returns = stage.trainer.facts().get("returns") or stage.data
        target = target_returns(settings.target_returns[:1], returns)
        evaluator = Evaluator(stage.make_env, settings, device, progress=False)
        policy = copy.deepcopy(stage.trainer.policy).to(getattr(torch, settings.precision)).eval()
        with torch.random.fork_rng():
            (figures,) = evaluator.policy(policy, target, {}).values()
        named = {"return_mean": figures.return_mean, "win_rate": figures.win_rate}
        return {name: value for name, value in named.items() if value is not None}

    return evaluate


def _provenance(stage: Stage, device: torch.device, kernel: Choice) -> dict[str, Any]:
    keys = ("name", "fingerprint", "episodes", "reward_definition", "behavior")
    return collect_provenance(
        seed=stage.config.seed,
        device=str(device),
        spec=stage.spec,
        simulator=env_spec(stage.make_env).version,
        dataset={key: stage.data.get(key) for key in keys},
        kernel_backend=kernel.backend.name,
        kernel_reason=kernel.reason,
    )


def plain(section: Settings) -> dict[str, Any]:
    """Return a section as JSON values."""
    return section.model_dump(mode="json")


def _as_text(config: Config) -> str:
    """Return the configuration for TensorBoard's text page."""
    return f"```json\n{config.model_dump_json(indent=2)}\n```"
