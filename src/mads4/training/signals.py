"""Ctrl-C and SIGTERM as a wish that is granted between two training steps."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_LOG = logging.getLogger(__name__)


class StopRequest:
    """Whether somebody has asked the process to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle a signal; the second Ctrl-C does not wait any longer."""
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        _LOG.warning(
            "%s: saving, then stopping; once more Ctrl-C stops at once.",
            signal.Signals(number).name,
        )


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request while the block runs (in the main thread)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
