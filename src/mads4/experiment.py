"""The jobs: record data, train a policy, evaluate or probe one. Each leaves a run directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mads4 import build, checkpoint
from mads4.atomic import json_safe, write_json
from mads4.config import CollectConfig, Config, EvaluateConfig, ProbeConfig, Section
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler
from mads4.data.store import read_header
from mads4.envs.registry import EnvFactory
from mads4.errors import UserError
from mads4.evaluate import target_returns
from mads4.judge import Judge
from mads4.kernels.backends import Choice, choose
from mads4.models.base import parameter_count
from mads4.probe import Probe, require_chain
from mads4.progress import progress_bar
from mads4.provenance import PROVENANCE_FILE, collect_provenance
from mads4.report.picture import RESULT_PICTURE, result_picture, target_figure
from mads4.report.probe_picture import PROBE_PICTURE, probe_picture
from mads4.report.probe_table import PROBE_FILE, probe_tables
from mads4.report.summary import SUMMARY_FILE
from mads4.report.table import result_table
from mads4.tracking import Tracker, read_metrics
from mads4.train.loop import Checkpoints, fit
from mads4.train.offline import OfflineTrainer
from mads4.train.state import TrainState
from mads4.types import EnvSpec

_LOG = logging.getLogger(__name__)

SPLIT_SEED = 0
"""The held-out episodes are the same for all runs on a data set, so that losses compare."""


def collect(config: CollectConfig, run_dir: Path) -> None:
    """Record the data set that the configuration describes."""
    path = build.record(build.environment(config.env), config.dataset, config.progress)
    write_json(run_dir / SUMMARY_FILE, {"name": config.name, "data": read_header(path).summary()})
    _LOG.info("data set: %s (look at it with: mads4 data show %s)", path, path)


def train(config: Config, run_dir: Path) -> None:
    """Get the data, pretrain the policy (or go on with it), evaluate it and draw the result.

    Raises:
        UserError: anything the user can mend.
        KeyboardInterrupt: interrupted; everything needed to go on has been saved.
    """
    began = time.perf_counter()
    device = build.device(config.device, config.threads)
    kernel = choose(config.kernel.backend, device)
    torch.manual_seed(config.seed)
    make_env = build.environment(config.env)
    data = build.dataset(config.dataset, make_env, config.progress)
    collected = time.perf_counter()
    write_json(run_dir / PROVENANCE_FILE, _provenance(config, data, device, kernel))
    trainer = _offline_trainer(config, data, device)
    about = _about(config, data)
    checkpoints = Checkpoints(run_dir / checkpoint.FOLDER, about)
    state = checkpoints.restore(trainer)
    _LOG.info("run directory: %s", run_dir)
    with Tracker(run_dir, config.logger.tensorboard, start_step=state.step) as tracker:
        tracker.text("config", _as_text(config))
        state = _train(config, trainer, state, checkpoints, tracker)
        payload = checkpoint.load(checkpoint.find(run_dir))
        times = {"collect_s": collected - began, "train_s": state.seconds}
        summary = _summary(config.name, payload, make_env, config, run_dir, device, times)
        summary["train"] = _train_summary(trainer, state)
        summary["time"]["agent_steps_per_s"] = (
            trainer.agent_steps_per_update * state.step / max(state.seconds, 1e-9)
        )
        _publish(summary, run_dir, tracker, state.step)


def evaluate(config: EvaluateConfig, run_dir: Path) -> None:
    """Play the policy of a checkpoint and write what came of it."""
    device = build.device(config.device, config.threads)
    payload, make_env = _trained(config)
    with Tracker(run_dir, tensorboard=True) as tracker:
        summary = _summary(config.name, payload, make_env, config, run_dir, device, {})
        summary["checkpoint"] = str(config.checkpoint)
        _publish(summary, run_dir, tracker, payload["state"]["step"])


def probe(config: ProbeConfig, run_dir: Path) -> None:
    """Disturb the chain of a checkpoint's policy and write what that costs.

    Raises:
        UserError: a policy without a chain, or anything else the user can mend.
    """
    device = build.device(config.device, config.threads)
    payload, make_env = _trained(config)
    policy = build.trained_policy(payload, config.precision).to(device)
    require_chain(policy, config.checkpoint)
    asked = payload["config"]["evaluator"]["targets"][0] if config.target is None else config.target
    (target,) = target_returns([asked], payload["data"]).values()
    result = {
        "name": config.name,
        "checkpoint": config.checkpoint,
        "env": payload["spec"],
        "model": payload["model"],
        "seed": config.seed,
        "target_return": target,
        **Probe(make_env, config, device).run(policy, target),
    }
    write_json(run_dir / PROBE_FILE, result)
    probe_picture(result, run_dir / PROBE_PICTURE)
    for table in probe_tables(result):
        Console().print(table)
    _LOG.info("picture: %s", run_dir / PROBE_PICTURE)


def _trained(config: EvaluateConfig | ProbeConfig) -> tuple[dict[str, Any], EnvFactory]:
    """Return a checkpoint that holds a policy, and the environment to play it in."""
    payload = checkpoint.load(checkpoint.find(Path(config.checkpoint).expanduser()))
    _require_policy(payload, config.checkpoint)
    make_env = (
        EnvFactory(payload["env"]["name"], payload["env"]["arguments"])
        if config.env is None
        else build.environment(config.env)
    )
    spec = EnvSpec.from_dict(payload["spec"])
    spec.require_compatible(
        build.env_spec(make_env), f"the policy of {config.checkpoint}", "the environment"
    )
    return payload, make_env


def _offline_trainer(config: Config, data: Dataset, device: torch.device) -> OfflineTrainer:
    if len(data) < 2:
        raise UserError(
            f"The data set '{data.name}' has {len(data)} episode; training needs at least two, "
            "one of them to hold out for the validation loss."
        )
    training, held_out = data.split(config.dataset.validation_fraction, SPLIT_SEED)
    model = build.policy(config.model, data.spec, config.kernel.backend)
    build.normalise(model, training)
    if config.init_from is not None:
        _initialise(model, config.init_from, data.spec)
    sampler = SequenceSampler(
        training, config.trainer.batch_size, config.trainer.window, config.seed
    )
    return OfflineTrainer(
        model.to(device), sampler, held_out, build.offline_settings(config.trainer), device
    )


def _initialise(model: torch.nn.Module, source: str, spec: EnvSpec) -> None:
    """Take weights and normalisation, and nothing else, from another run."""
    payload = checkpoint.load(checkpoint.find(Path(source).expanduser()))
    _require_policy(payload, source)
    EnvSpec.from_dict(payload["spec"]).require_compatible(spec, f"init_from={source}", "the data")
    try:
        model.load_state_dict(payload["policy"])
    except RuntimeError as error:
        raise UserError(
            f"init_from: the policy of {source} was built with other model settings "
            f"({payload['model']}); give the same model.* options. ({error})"
        ) from error


def _require_policy(payload: Mapping[str, Any], source: str) -> None:
    if "policy" not in payload or "spec" not in payload:
        raise UserError(f"{source} holds no policy; give a run directory of `mads4 train`.")


def _train(
    config: Config,
    trainer: OfflineTrainer,
    state: TrainState,
    checkpoints: Checkpoints,
    tracker: Tracker,
) -> TrainState:
    if state.step:
        _LOG.info("continuing at step %d", state.step)
    with progress_bar("training", config.trainer.steps, config.progress) as advance:

        def on_step(now: TrainState, loss: float) -> None:
            held_out = now.best_validation_loss
            words = f"loss {loss:.3f}" + (f", held out {held_out:.3f}" if now.best_step else "")
            advance(now.step, words)

        return fit(trainer, state, build.intervals(config.trainer), checkpoints, tracker, on_step)


def _summary(
    name: str,
    payload: Mapping[str, Any],
    make_env: EnvFactory,
    config: Config | EvaluateConfig,
    run_dir: Path,
    device: torch.device,
    times: Mapping[str, float],
) -> dict[str, Any]:
    """Evaluate the checkpoint's policy for every return target; return ``summary.json``."""
    began = time.perf_counter()
    settings = config.evaluator
    judge = Judge(make_env, settings, device, config.progress)
    policy = build.trained_policy(payload, settings.precision).to(device)
    targets = target_returns(settings.targets, payload["data"])
    baselines = judge.baselines() if settings.baselines else {}
    results = judge.policy(policy, targets, baselines, run_dir)
    return {
        "name": name,
        "seed": payload["seed"],
        "env": payload["spec"],
        "reward_definition": payload["spec"]["reward"],
        "data": payload["data"] | {"quality": payload["data"]["behaviour"].get("quality")},
        "eval": results,
        "baselines": baselines,
        "time": {**times, "evaluate_s": time.perf_counter() - began},
    }


def _train_summary(trainer: OfflineTrainer, state: TrainState) -> dict[str, Any]:
    return {
        "steps": state.step,
        "best_step": state.best_step,
        "best_validation_loss": state.best_validation_loss,
        "parameters": parameter_count(trainer.policy),
    }


def _publish(summary: dict[str, Any], run_dir: Path, tracker: Tracker, step: int) -> None:
    """Write ``summary.json``, the picture and TensorBoard's figures, and show the table."""
    for target, values in summary["eval"].items():
        numbers = {k: v for k, v in values.items() if isinstance(v, float)}
        name = target.replace("*", "x")
        tracker.log(step, {f"eval/{k}.{name}": v for k, v in numbers.items()})
    write_json(run_dir / SUMMARY_FILE, summary)
    tracker.figure("eval/target_against_achieved", target_figure(summary), step)
    result_picture(summary, read_metrics(run_dir), run_dir / RESULT_PICTURE)
    Console().print(result_table(summary))
    _LOG.info("picture: %s", run_dir / RESULT_PICTURE)


def _about(config: Config, data: Dataset) -> dict[str, Any]:
    """Return what a checkpoint says besides the weights."""
    make_env = build.environment(config.env)
    return {
        "model": _plain(config.model),
        "spec": data.spec.to_dict(),
        "env": {"name": make_env.name, "arguments": dict(make_env.arguments)},
        "data": json_safe(data.summary()),  # a user's own reader may describe it in numpy types
        "seed": config.seed,
        "config": _plain(config),
    }


def _provenance(
    config: Config, data: Dataset, device: torch.device, kernel: Choice
) -> dict[str, Any]:
    return collect_provenance(
        seed=config.seed,
        device=str(device),
        spec=data.spec,
        dataset={"name": data.name, "fingerprint": data.fingerprint, "episodes": len(data)},
        kernel_backend=kernel.backend.name,
        kernel_reason=kernel.reason,
    )


def _plain(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json")


def _as_text(config: Config) -> str:
    """Return the configuration for TensorBoard's text page."""
    return f"```json\n{config.model_dump_json(indent=2)}\n```"
