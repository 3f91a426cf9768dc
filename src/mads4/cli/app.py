"""The Hydra applications `train`, `collect`, `evaluate` and `probe`: check, run, report."""

from __future__ import annotations

import shutil
import sys

import hydra

from mads4.cli import jobs
from mads4.cli.preflight import require_present
from mads4.config import help as help_text
from mads4.config.compose import check
from mads4.config.directories import quote, settle, tally
from mads4.settings import CONF


def run(command: str, argv: list[str]) -> int:
    """Run one command line of a Hydra application and return its exit code."""
    if "--help" in argv or "-h" in argv:
        columns = shutil.get_terminal_size().columns
        sys.stdout.write(help_text.text(command, argv, columns))
        return 0
    plan = check(command, argv)
    words = [*plan.flags, *plan.overrides]
    if plan.runs:
        require_present(plan)
        plan = settle(plan)
        key = "hydra.sweep.dir" if plan.multirun else "hydra.run.dir"
        words = [word for word in words if not word.startswith(f"{key}=")]
        words.append(f"{key}={quote(str(plan.directory))}")
    sys.argv = [f"mads4 {command}", *words]
    application = hydra.main(config_path=f"pkg://{CONF}", config_name=command, version_base="1.3")
    application(jobs.JOBS[command])()
    return tally(plan) if plan.runs and plan.multirun else 0
