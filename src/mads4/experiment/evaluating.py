"""`mads4 evaluate`, and the evaluation at the end of a training."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mads4.config import Config, EvaluateConfig, EvaluatorConfig
from mads4.envs.registry import EnvFactory
from mads4.evaluation.evaluator import Evaluator
from mads4.evaluation.metrics import target_returns
from mads4.experiment import build
from mads4.experiment.sources import known_returns, trained
from mads4.io import write_json
from mads4.logging import Tracker, read_metrics
from mads4.report.picture import RESULT_PICTURE, result_picture, target_figure
from mads4.report.summary import SUMMARY_FILE
from mads4.report.table import result_table

_LOG = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, run_dir: Path) -> None:
    """Play the policy of a checkpoint and write what came of it."""
    device = build.device(config.device, config.threads)
    payload, make_env = trained(config)
    with Tracker(run_dir, tensorboard=True) as tracker:
        summary = summarize(config.name, payload, make_env, config, run_dir, device, {})
        summary |= {"checkpoint": str(config.checkpoint), "training": payload["config"]}
        publish(summary, run_dir, tracker, payload["state"]["step"])


def summarize(
    name: str,
    payload: Mapping[str, Any],
    make_env: EnvFactory,
    config: Config | EvaluateConfig,
    run_dir: Path,
    device: torch.device,
    times: Mapping[str, float],
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate the checkpoint's policy for every return target; return ``summary.json``.

    Where training began with another checkpoint, `before`, that one is asked for the first target.
    """
    began = time.perf_counter()
    settings = _as_in_training(config.evaluator, payload)
    judge = Evaluator(make_env, settings, device, config.progress)
    factory = build.allowed_factory(config)
    policy = build.trained_policy(payload, settings.precision, factory).to(device)
    targets = target_returns(settings.targets, known_returns(payload))
    baselines = judge.baselines() if settings.baselines else {}
    results = judge.policy(policy, targets, baselines, run_dir)
    earlier = {}
    if before is not None:
        began_with = build.trained_policy(before, settings.precision, factory).to(device)
        asked = target_returns(settings.targets[:1], known_returns(before))
        earlier = judge.policy(began_with, asked, baselines)
    data = payload["data"]
    return {
        "name": name,
        "seed": payload["seed"],
        "env": payload["spec"],
        "simulator": build.env_spec(make_env).version,
        "model": payload["model"],
        "reward_definition": payload["spec"]["reward"],
        "actions": "sampled" if settings.sample else "likeliest",
        "data": data and data | {"quality": data["behavior"].get("quality")},
        "eval": results,
        "before": earlier,
        "baselines": baselines,
        "time": {**times, "evaluate_s": time.perf_counter() - began},
    }


def _as_in_training(settings: EvaluatorConfig, payload: Mapping[str, Any]) -> EvaluatorConfig:
    """Return `settings` with what they leave open as the checkpoint's training had it."""
    if settings.sample is not None:
        return settings
    sample = payload["config"]["evaluator"].get("sample")
    return settings.model_copy(update={"sample": sample is not False})


def publish(summary: dict[str, Any], run_dir: Path, tracker: Tracker, step: int) -> None:
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
