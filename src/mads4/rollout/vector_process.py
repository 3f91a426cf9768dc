"""One process that steps environments: the process as its parent sees it, and what it does."""

from __future__ import annotations

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from mads4.envs.protocol import MultiAgentEnv
from mads4.errors import UserError
from mads4.rollout.processes import become_worker, group_memory, start_worker
from mads4.rollout.shared_buffers import Seat, SharedBuffers
from mads4.rollout.vector import WorkerLost, attend
from mads4.types import EnvSpec

START_SECONDS = 300.0
"""Time for a process to import and make its environments, before `timeout` applies."""

Range = tuple[int, int]


@dataclass(frozen=True)
class Report:
    """A process's answer when it has done what it was asked."""

    ended: Mapping[int, Mapping[str, float]]
    """Row → metrics of the episode that ended there."""
    losses: Sequence[WorkerLost] = ()
    """Episodes that broke."""
    memory: int | None = None
    """Bytes held by the process and what it has started, where an episode ended."""


Answer = Report | UserError | str
"""Or what went wrong for good."""


_Request = tuple[Range | None, float]
"""What a process was asked, None for its start, and the seconds that it may take."""


class Worker:
    """One process as seen from here, and what it was asked and has not answered."""

    def __init__(
        self,
        job: tuple[Any, ...],
        rows: Sequence[int],
        starts: int = 1,
        failures: int = 0,
        delay: float = 0.0,
    ) -> None:
        self.rows = rows
        self.starts = starts
        self.failures = failures
        """How often in a row its place was lost without an episode finished."""
        self.memory = 0
        """Bytes when an episode last ended."""
        start: _Request = (None, START_SECONDS + delay)
        self.pending = deque([start])
        self._since = time.monotonic()
        self.process, self.connection = start_worker(_serve, delay, rows, *job)

    @property
    def starting(self) -> bool:
        """Whether it has yet to make its environments."""
        return bool(self.pending) and self.pending[0][0] is None

    def send(self, rows: Range, allowed: float) -> None:
        """Ask it to see to `rows` within `allowed` seconds."""
        if not self.pending:
            self._since = time.monotonic()
        self.pending.append((rows, allowed))
        # A process that has just died shows itself at the next `receive`.
        with suppress(OSError):
            self.connection.send(rows)

    def receive(self) -> Any:
        """Return its next `Answer`; `EOFError` or `OSError` if it is gone."""
        answer = self.connection.recv()
        self.pending.popleft()
        self._since = time.monotonic()
        return answer

    @property
    def allowed(self) -> float:
        """Seconds for what it is doing."""
        return self.pending[0][1]

    def patience(self) -> float:
        """Return how many more seconds it may stay silent."""
        return max(0.0, self._since + self.allowed - time.monotonic())

    def owes(self, rows: slice) -> bool:
        """Return whether it was asked for any of `rows` and has not answered."""
        return any(
            asked is not None and asked[0] < rows.stop and asked[1] > rows.start
            for asked, _ in self.pending
        )

    def dismiss(self) -> None:
        """Let the process go: an idle one leaves when its connection closes, others are told to."""
        self.connection.close()
        if self.pending:
            self.process.terminate()


def _serve(
    connection: Connection,
    delay: float,
    rows: Sequence[int],
    make_env: Callable[[], MultiAgentEnv],
    spec: EnvSpec,
    size: int,
    buffer: Any,
    weigh: bool,
) -> None:
    """Step the environments `rows` whenever asked to, until the other end is gone."""
    become_worker()
    time.sleep(delay)
    board = SharedBuffers.over(spec, size, buffer)
    failure: UserError | str
    try:
        with ExitStack() as stack:
            envs = [stack.enter_context(closing(make_env())) for _ in rows]
            seats = [Seat(env, board, row) for env, row in zip(envs, rows, strict=True)]
            _answer(connection, Report({}))
            for start, stop in _requests(connection):
                _answer(connection, _obey([s for s in seats if start <= s.row < stop], weigh))
        return
    except UserError as error:
        failure = error
    except Exception:
        failure = traceback.format_exc()
    _answer(connection, failure)


def _obey(seats: Sequence[Seat], weigh: bool) -> Report:
    """Let environments do what the board orders; `weigh` the process when an episode has ended."""
    outcomes = [(seat, *attend(seat)) for seat in seats]
    ended = {seat.row: seat.metrics for seat, over, _ in outcomes if over}
    losses = [loss for _, _, loss in outcomes if loss]
    return Report(ended, losses, group_memory(os.getpgrp()) if weigh and ended else None)


def _requests(connection: Connection) -> Iterator[Range]:
    with suppress(EOFError, OSError):
        while True:
            yield connection.recv()


def _answer(connection: Connection, answer: Answer) -> None:
    # Nobody listens any more: the next request will not come either.
    with suppress(OSError):
        connection.send(answer)
