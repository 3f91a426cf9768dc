"""The Hydra applications `train`, `collect`, `evaluate` and `probe`: check, run, leave a marker."""

from __future__ import annotations

import copy
import logging
import shutil
import sys
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mads4.config import help as help_text
from mads4.config.compose import check, open_hydra, to_config
from mads4.config.directories import CONFIG, DONE, FAILED, quote, resume_command, settle, tally
from mads4.config.validation import ConfigError, factory_problems
from mads4.errors import UserError

log = logging.getLogger(__name__)


def run(command: str, argv: list[str]) -> int:
    """Run one command line of a Hydra application and return its exit code."""
    if "--help" in argv or "-h" in argv:
        columns = shutil.get_terminal_size().columns
        sys.stdout.write(help_text.text(command, argv, columns))
        return 0
    plan = check(command, argv)
    if plan.shown is None:
        from mads4.cli.preflight import require_present

        if problems := [line for config in plan.configs for line in factory_problems(config)]:
            raise ConfigError(problems)
        require_present(plan)
        plan = settle(plan)
    with open_hydra(command, plan.config_dir) as hydra:
        if plan.shown is not None:
            hydra.show_cfg(command, plan.overrides, plan.shown, package=None)
            return 0
        key = f"{plan.directory_key}="
        overrides = [text for text in plan.overrides if not text.startswith(key)]
        overrides.append(f"{key}{quote(str(plan.directory))}")
        task = partial(job, command)
        if plan.multirun:
            hydra.multirun(command, task, overrides)
            return tally(plan)
        return int(hydra.run(command, task, overrides).return_value)


def job(command: str, composed: DictConfig) -> int:
    """Run a job in the directory that Hydra made for it, and leave a marker there.

    Returns:
        The exit code: 0 done, 2 for a user's mistake, 1 for any other failure.

    Raises:
        KeyboardInterrupt: passed on, so that a sweep ends too.
    """
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if (run_dir / DONE).exists():
        log.info("already done: %s", run_dir)
        return 0
    (run_dir / FAILED).unlink(missing_ok=True)
    try:
        config = to_config(composed, command, hydra_config.overrides.task)
        OmegaConf.save(OmegaConf.create(config.model_dump(mode="json")), run_dir / CONFIG)
        getattr(import_module("mads4.experiment"), command)(config, run_dir)
    except UserError as error:
        _fail(run_dir, str(error))
        for line in str(error).splitlines():
            log.error("error: %s", line)
        return 2
    except KeyboardInterrupt:
        if command == "train":
            again = resume_command(command, list(hydra_config.overrides.task), run_dir)
            log.warning("interrupted; continue with: %s", again)
        raise
    except Exception as error:
        _fail(run_dir, traceback.format_exc())
        summary = f"{type(error).__name__}: {error}".splitlines()[0]
        log.exception("failed: %s (traceback in %s)", summary, run_dir / FAILED)
        return 1
    (run_dir / DONE).touch()
    return 0


def _fail(run_dir: Path, reason: str) -> None:
    (run_dir / FAILED).write_text(reason.rstrip() + "\n", encoding="utf-8")


class ConsoleHandler(logging.Handler):
    """Write to whatever `sys.stderr` is at the moment of writing.

    rich replaces `sys.stderr` while a progress bar is drawn, so that other output appears above
    the bar; a handler that keeps the original stream would tear the bar apart. Tracebacks are left
    to the log file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        terse = copy.copy(record)
        terse.exc_info = terse.exc_text = None
        try:
            sys.stderr.write(self.format(terse) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # a closed console must not end a run
            self.handleError(record)
