"""`mads4 collect`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mads4.config import CollectConfig
from mads4.data.store import read_header
from mads4.evaluation.record import RunRecord
from mads4.experiment import components, recordings

_LOG = logging.getLogger(__name__)


def collect(config: CollectConfig, run_dir: Path) -> None:
    """Record the data set that the configuration describes."""
    summary: dict[str, Any] = {"name": config.name}
    path = recordings.record(
        components.environment(config.env),
        config.dataset,
        config.progress,
        lambda incidents: summary.update(incidents.to_dict()),
    )
    RunRecord.of(summary | {"data": read_header(path).summary()}).write(run_dir)
    _LOG.info("data set: %s (look at it with: mads4 data show %s)", path, path)
