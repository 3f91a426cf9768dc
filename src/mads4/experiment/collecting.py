"""`mads4 collect`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mads4.config import CollectConfig
from mads4.data.store import read_header
from mads4.experiment import build
from mads4.io import write_json
from mads4.report.summary import SUMMARY_FILE

_LOG = logging.getLogger(__name__)


def collect(config: CollectConfig, run_dir: Path) -> None:
    """Record the data set that the configuration describes."""
    summary: dict[str, Any] = {"name": config.name}
    path = build.record(
        build.environment(config.env),
        config.dataset,
        config.progress,
        lambda incidents: summary.update(incidents.to_dict()),
    )
    write_json(run_dir / SUMMARY_FILE, summary | {"data": read_header(path).summary()})
    _LOG.info("data set: %s (look at it with: mads4 data show %s)", path, path)
