"""`mads4 evaluate` and `mads4 probe`, and the evaluation at the end of a training."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mads4.config import Config, EvaluateConfig, EvaluatorConfig, ProbeConfig
from mads4.envs.protocol import env_spec
from mads4.envs.registry import EnvFactory
from mads4.evaluation.ablation import Probe, require_chain
from mads4.evaluation.evaluator import Evaluator
from mads4.evaluation.metrics import target_returns
from mads4.evaluation.record import Figures, RunRecord
from mads4.experiment import components
from mads4.experiment.sources import known_returns, trained
from mads4.io import write_json
from mads4.logging import Tracker, read_metrics
from mads4.report.ablation import PROBE_FILE, PROBE_PICTURE, probe_picture, probe_tables
from mads4.report.picture import RESULT_PICTURE, result_picture, target_figure
from mads4.report.table import result_table

_LOG = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, run_dir: Path) -> None:
    """Play the policy of a checkpoint, and write its record, table and picture."""
    device = components.device(config.device, config.threads)
    config.kernel.choose(device)
    payload, make_env = trained(config)
    with Tracker(run_dir, tensorboard=True) as tracker:
        record = evaluated(config.name, payload, make_env, config, run_dir, device, {})
        source = {"checkpoint": str(config.checkpoint), "training": payload["config"]}
        publish(record.model_copy(update=source), run_dir, tracker, payload["state"]["step"])


def evaluated(
    name: str,
    payload: Mapping[str, Any],
    make_env: EnvFactory,
    config: Config | EvaluateConfig,
    run_dir: Path,
    device: torch.device,
    times: Mapping[str, float],
    before: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Evaluate the checkpoint's policy for every target return; return the run's record.

    If training began with another checkpoint, `before`, that is evaluated for the first target.
    """
    began = time.perf_counter()
    settings = _as_in_training(config.evaluator, payload)
    evaluator = Evaluator(make_env, settings, device, config.progress)
    given = (settings.precision, components.allowed_factory(config), config.kernel.name)
    policy = components.trained_policy(payload, *given).to(device)
    targets = target_returns(settings.target_returns, known_returns(payload))
    baselines = evaluator.baselines() if settings.baselines else {}
    results = evaluator.policy(policy, targets, baselines, run_dir)
    earlier: dict[str, Figures] = {}
    if before is not None:
        began_with = components.trained_policy(before, *given).to(device)
        first = target_returns(settings.target_returns[:1], known_returns(before))
        earlier = evaluator.policy(began_with, first, baselines)
    data = payload["data"]
    return RunRecord.of(
        {
            "name": name,
            "seed": payload["seed"],
            "env": payload["spec"],
            "simulator": env_spec(make_env).version,
            "model": payload["model"],
            "reward_definition": payload["spec"]["reward"],
            "actions": "deterministic" if settings.deterministic else "sampled",
            "data": data and data | {"quality": data["behavior"].get("quality")},
            "eval": results,
            "before": earlier,
            "baselines": baselines,
            "time": {**times, "evaluate_s": time.perf_counter() - began},
        }
    )


def _as_in_training(settings: EvaluatorConfig, payload: Mapping[str, Any]) -> EvaluatorConfig:
    """Return `settings` with what they leave open as the checkpoint's training had it."""
    if settings.deterministic is not None:
        return settings
    deterministic = payload["config"]["evaluator"].get("deterministic")
    return settings.model_copy(update={"deterministic": bool(deterministic)})


def publish(record: RunRecord, run_dir: Path, tracker: Tracker, step: int) -> None:
    """Write ``summary.json``, the picture and TensorBoard's figures, and print the table."""
    for target, figures in record.eval.items():
        numbers = {k: v for k, v in figures.model_dump().items() if isinstance(v, float)}
        name = target.replace("*", "x")
        tracker.log(step, {f"eval/{k}.{name}": v for k, v in numbers.items()})
    record.write(run_dir)
    tracker.figure("eval/target_against_achieved", target_figure(record), step)
    result_picture(record, read_metrics(run_dir), run_dir / RESULT_PICTURE)
    Console().print(result_table(record))
    _LOG.info("picture: %s", run_dir / RESULT_PICTURE)


def probe(config: ProbeConfig, run_dir: Path) -> None:
    """Ablate the chain of a checkpoint's policy, and write what that costs.

    Raises:
        UserError: a policy without a chain, or any other mistake of the user.
    """
    device = components.device(config.device, config.threads)
    config.kernel.choose(device)
    payload, make_env = trained(config)
    given = (config.precision, config.model_factory, config.kernel.name)
    policy = require_chain(components.trained_policy(payload, *given).to(device), config.checkpoint)
    asked = config.target_return
    if asked is None:
        asked = payload["config"]["evaluator"]["target_returns"][0]
    (target,) = target_returns([asked], known_returns(payload)).values()
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
