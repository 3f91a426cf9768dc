"""Log lines that get along with progress bars."""

from __future__ import annotations

import copy
import logging
import sys


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
