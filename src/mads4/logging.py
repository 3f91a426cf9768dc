"""What a run logs: ``metrics.jsonl`` and TensorBoard events, side by side; progress bars.

``metrics.jsonl`` is the record (one JSON object per line, readable by anything); TensorBoard
shows the same scalars, and figures and texts besides.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mads4.errors import UserError
from mads4.io import json_safe, write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch.utils.tensorboard.writer import SummaryWriter

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

_NAME = re.compile(r"[\w.+-]+/[\w.+-]+")
_LOG = logging.getLogger(__name__)


class Tracker:
    """Writes scalars, figures and texts of one run; usable as a context manager.

    Args:
        run_dir: The run directory; created when it is missing.
        tensorboard: Whether to write TensorBoard events too.
        start_step: The step from which a run is resumed. What an earlier process logged after it
            is dropped in both places, because these steps are repeated. None keeps everything.
    """

    def __init__(
        self, run_dir: Path, tensorboard: bool = True, start_step: int | None = None
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        _trim(run_dir / METRICS_FILE, start_step)
        self._file: TextIO = (run_dir / METRICS_FILE).open("a", encoding="utf-8")
        self._writer = _writer(run_dir / TENSORBOARD_FOLDER, start_step) if tensorboard else None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record scalars (numbers, 0-d arrays or tensors) named ``phase/metric`` at `step`.

        The line is flushed when this returns: a killed process loses none.

        Raises:
            ValueError: when a name is not of the form ``phase/metric``; nothing is written.
        """
        values = {_checked(name): float(value) for name, value in metrics.items()}
        row = {"step": int(step), "time": round(time.time(), 3), **json_safe(values)}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Show a matplotlib figure in TensorBoard under ``phase/name``."""
        _checked(name)
        if self._writer is not None:
            self._writer.add_figure(name, figure, step, close=False)

    def text(self, name: str, text: str, step: int = 0) -> None:
        """Show a Markdown text, for example the configuration, in TensorBoard."""
        if self._writer is not None:
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Flush and close; may be called twice."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Tracker:
        """Return the tracker itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close, whether or not the block failed."""
        self.close()


def read_metrics(run_dir: Path) -> pd.DataFrame:
    """Return the metrics of a run, one row per step in ascending order.

    Columns are ``step``, ``time`` (seconds since the epoch) and the ``phase/metric`` names; a
    metric that was not logged at a step, or was not finite, is NaN there. Of a metric logged
    twice at a step the later value counts.

    Raises:
        UserError: when the run has no ``metrics.jsonl``.
    """
    import pandas as pd

    path = run_dir / METRICS_FILE
    if not path.is_file():
        raise UserError(f"{run_dir} has no {METRICS_FILE}. Give the directory of a run.")
    frame = pd.DataFrame([json.loads(line) for line in _sound_lines(path)])
    if frame.empty:
        return pd.DataFrame({"step": pd.Series(dtype=int), "time": pd.Series(dtype=float)})
    numbers = frame.drop(columns="step").astype(float)
    return numbers.groupby(frame["step"].astype(int)).last().reset_index()


def _checked(name: str) -> str:
    """Return `name` if it has the form ``phase/metric``."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"metric name {name!r}: give phase/metric, for example 'offline/loss' "
            "(letters, digits, '_', '.', '+', '-' and one slash)"
        )
    return name


def _sound_lines(path: Path) -> list[str]:
    """Return the complete lines; only the last one of a killed process may be incomplete."""
    sound = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and "step" in row:
            sound.append(line)
        else:
            _LOG.warning("%s: line %d is incomplete and is skipped", path, number)
    return sound


def _trim(path: Path, last_step: int | None) -> None:
    """Drop half-written lines and, given `last_step`, all rows after it, atomically."""
    if not path.exists():
        return
    lines = _sound_lines(path)
    if last_step is not None:
        lines = [line for line in lines if json.loads(line)["step"] <= last_step]
    text = "".join(f"{line}\n" for line in lines)
    if text != path.read_text("utf-8", errors="replace"):
        write_text(path, text)


def _writer(folder: Path, start_step: int | None) -> SummaryWriter:
    """Open TensorBoard events; steps after `start_step` disappear from earlier ones' display."""
    from torch.utils.tensorboard.writer import SummaryWriter

    purge_step = None if start_step is None else start_step + 1
    return SummaryWriter(str(folder), purge_step=purge_step)


LOG_SECONDS = 30.0
"""Time between two log lines where there is no terminal."""

Advance = Callable[[int, str], None]
"""Called with the total done so far and a short status."""


@contextmanager
def progress_bar(what: str, total: int | None, enabled: bool = True) -> Iterator[Advance]:
    """Show the progress of `what` towards `total` (None: unknown); yields the function to call."""
    if enabled and sys.stderr.isatty():
        bar = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=Console(stderr=True),
        )
        with bar:
            task = bar.add_task(what, total=total, words="")
            yield lambda done, words: bar.update(task, completed=done, words=words)
        return
    yield _logging_advance(what, total) if enabled else lambda done, words: None


def _logging_advance(what: str, total: int | None) -> Advance:
    last = time.monotonic()

    def advance(done: int, words: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_SECONDS or (total is not None and done >= total):
            last = time.monotonic()
            _LOG.info("%s: %d of %s %s", what, done, total or "unknown", words)

    return advance
