"""`mads4 probe`."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from mads4.config import ProbeConfig
from mads4.evaluation.ablation import Probe, require_chain
from mads4.evaluation.metrics import target_returns
from mads4.experiment import components
from mads4.experiment.sources import known_returns, trained
from mads4.io import write_json
from mads4.report.ablation import PROBE_FILE, PROBE_PICTURE, probe_picture, probe_tables

_LOG = logging.getLogger(__name__)


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
