"""One job of a Hydra application: run it and leave a marker that says how it ended."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mads4.config import AnyConfig
from mads4.config.compose import to_config
from mads4.config.directories import CONFIG, DONE, FAILED, resume_command
from mads4.errors import UserError

log = logging.getLogger(__name__)


def train(composed: DictConfig) -> None:
    """Run a training job."""
    _job("train", composed)


def collect(composed: DictConfig) -> None:
    """Run a recording job."""
    _job("collect", composed)


def evaluate(composed: DictConfig) -> None:
    """Run an evaluation job."""
    _job("evaluate", composed)


def probe(composed: DictConfig) -> None:
    """Run an analysis of a policy's chain."""
    _job("probe", composed)


JOBS: dict[str, Callable[[DictConfig], None]] = {
    "train": train,
    "collect": collect,
    "evaluate": evaluate,
    "probe": probe,
}


def _job(command: str, composed: DictConfig) -> None:
    """Run a job; on its own it ends the process with its exit code, in a sweep it returns.

    Raises:
        SystemExit: in a single run, with 2 for a user's mistake and 1 for any other failure.
        KeyboardInterrupt: passed on, so that a sweep ends too.
    """
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if (run_dir / DONE).exists():
        log.info("already done: %s", run_dir)
        return
    (run_dir / FAILED).unlink(missing_ok=True)
    try:
        config = to_config(composed, command, hydra_config.overrides.task)
        OmegaConf.save(OmegaConf.create(config.model_dump(mode="json")), run_dir / CONFIG)
        _build(command, config, run_dir)
    except UserError as error:
        _fail(run_dir, str(error))
        for line in str(error).splitlines():
            log.error("error: %s", line)
        code = 2
    except KeyboardInterrupt:
        if command == "train":
            again = resume_command(command, list(hydra_config.overrides.task), run_dir)
            log.warning("interrupted; continue with: %s", again)
        raise
    except Exception as error:
        _fail(run_dir, traceback.format_exc())
        summary = f"{type(error).__name__}: {error}".splitlines()[0]
        log.exception("failed: %s (traceback in %s)", summary, run_dir / FAILED)
        code = 1
    else:
        (run_dir / DONE).touch()
        code = 0
    if code and hydra_config.mode != RunMode.MULTIRUN:
        sys.exit(code)


def _build(command: str, config: AnyConfig, run_dir: Path) -> None:
    from mads4 import experiment  # imports torch: only once the configuration is known to be right

    getattr(experiment, command)(config, run_dir)


def _fail(run_dir: Path, reason: str) -> None:
    (run_dir / FAILED).write_text(reason.rstrip() + "\n", encoding="utf-8")
