"""Log lines that get along with progress bars."""

from __future__ import annotations

import copy
import logging
import sys
from typing import TextIO


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Write to whatever `sys.stderr` is at the moment of writing.

    rich replaces `sys.stderr` while a progress bar is drawn, so that other output appears above
    the bar; a handler that keeps the original stream would tear the bar apart. Tracebacks are left
    to the log file.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The present standard error stream."""
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line without a traceback."""
        terse = copy.copy(record)
        terse.exc_info = terse.exc_text = None
        return super().format(terse)
