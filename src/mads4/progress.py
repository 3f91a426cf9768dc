"""Progress bars on a terminal, and a log line now and then where there is none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_SECONDS = 30.0
"""Time between two log lines where nobody watches a bar."""

_LOG = logging.getLogger(__name__)

Advance = Callable[[int, str], None]
"""Called with what is done in all and a few words on how it goes."""


@contextmanager
def progress_bar(what: str, total: int | None, enabled: bool = True) -> Iterator[Advance]:
    """Show how far `what` has come out of `total` (None: unknown); yields the function to call."""
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
