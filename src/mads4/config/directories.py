"""Which directory a run lives in, and what its marker files say.

A run directory holds `DONE` or `FAILED` once its job has ended; neither means that it was
interrupted. `resume=auto` continues, in this order:

1. the directory named by `hydra.run.dir` (or `hydra.sweep.dir`), if given;
2. the newest interrupted or failed run of the same name with the same configuration;
3. otherwise nothing: a fresh run starts.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mads4.config import AnyConfig
from mads4.config.compose import Plan
from mads4.errors import UserError

DONE = "DONE"
FAILED = "FAILED"
CONFIG = "config.yaml"
"""The resolved configuration in a run directory."""

MAY_CHANGE = (
    "resume",
    "device",
    "threads",
    "progress",
    "dataset.path",
    "dataset.num_workers",
    "evaluator.",
    "logger.",
    "trainer.log_interval",
    "trainer.checkpoint_interval",
    "trainer.save_interval",
)
"""Settings (or groups, with a final dot) that do not change what is trained."""

log = logging.getLogger(__name__)


def settle(plan: Plan) -> Plan:
    """Decide on the directory, and claim it if it is new.

    Raises:
        UserError: a directory in use without `resume=auto`, or a resumed run whose settings differ.
    """
    config = plan.configs[0] if plan.configs else None
    resume = getattr(config, "resume", None) == "auto"
    if plan.directory_given:
        _require_usable(plan, resume)
        return plan
    if resume and plan.multirun:
        raise UserError(
            "resume=auto with -m needs the sweep's directory: add hydra.sweep.dir=<directory>"
        )
    if resume and config is not None:
        unfinished = _unfinished(plan.directory.parent, config)
        if unfinished is not None:
            return replace(plan, directory=unfinished)
    return replace(plan, directory=_claim(plan.directory))


def tally(plan: Plan) -> int:
    """Sum up a sweep from its marker files, which outlive whatever process wrote them."""
    failed = sorted(path.parent for path in plan.directory.rglob(FAILED))
    done = sum(1 for _ in plan.directory.rglob(DONE))
    lost = max(0, len(plan.configs) - done - len(failed))
    sys.stderr.write(f"{done} jobs done, {len(failed) + lost} failed, in {plan.directory}\n")
    for path in failed:
        reason = (path / FAILED).read_text(encoding="utf-8").strip().splitlines()[-1:]
        sys.stderr.write(f"  {path / FAILED}: {''.join(reason)}\n")
    return 1 if failed or lost else 0


def quote(value: str) -> str:
    """Return `value` as a quoted string of Hydra's override grammar."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def resume_command(command: str, overrides: list[str], run_dir: Path) -> str:
    """Return the shell command that continues the run in `run_dir`."""
    kept = [o for o in overrides if not o.startswith(("resume=", "hydra.run.dir="))]
    words = ["mads4", command, *kept, "resume=auto", f"hydra.run.dir={run_dir}"]
    return shlex.join(words)


def _require_usable(plan: Plan, resume: bool) -> None:
    directory = plan.directory
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose another directory.")
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not resume:
        hint = " or continue it with resume=auto" if plan.command == "train" else ""
        raise UserError(f"{directory} is not empty; choose another directory{hint}.")
    if plan.multirun or not (directory / CONFIG).exists():
        return
    changed = list(_differences(directory, plan.configs[0]))
    if changed:
        raise UserError(
            "\n".join([f"{directory} was started with other settings than these:", *changed])
        )


def _unfinished(parent: Path, config: AnyConfig) -> Path | None:
    """Return the newest run under `parent` that is not done and has `config`'s settings."""
    runs = [path for path in parent.glob("*") if (path / CONFIG).is_file()]
    for path in sorted(runs, key=lambda run: run.name, reverse=True):
        if not (path / DONE).exists() and not any(_differences(path, config)):
            return path
    return None


def _differences(run_dir: Path, config: AnyConfig) -> Iterator[str]:
    """Yield a line for each setting that decides what is trained and differs from the run's."""
    saved = _flat(OmegaConf.to_container(OmegaConf.load(run_dir / CONFIG)))
    given = _flat(config.model_dump(mode="json"))
    for key in sorted(saved.keys() | given.keys()):
        allowed = any(
            key == free or (free[-1] == "." and key.startswith(free)) for free in MAY_CHANGE
        )
        if not allowed and saved.get(key) != given.get(key):
            yield f"{key}: {saved.get(key)!r} there, {given.get(key)!r} now"


def _flat(values: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(values, Mapping):
        return {above: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}.{key}" if above else str(key))
    return flat


def _claim(directory: Path) -> Path:
    """Create a fresh directory, numbered if another run took the same second."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    path, number = directory, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = directory.with_name(f"{directory.name}_{number}")
