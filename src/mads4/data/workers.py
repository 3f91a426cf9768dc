"""Playing episodes in worker processes that may die without taking the recording with them."""

from __future__ import annotations

import logging
import traceback
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from mads4.data.record import Recorder
from mads4.envs.protocol import MAX_ATTEMPTS
from mads4.errors import UserError
from mads4.rollout.processes import become_worker, end_worker, require_picklable, start_worker
from mads4.types import Episode

logger = logging.getLogger(__name__)

QUEUED = 2
"""Episodes a worker holds: one to play, one more so that it never waits for the next."""


def play_in_workers(
    recorder: Recorder, indices: Sequence[int], workers: int
) -> Generator[Episode, None, None]:
    """Yield the episodes `indices` in the order in which `workers` processes finish them.

    A worker that dies is reported and replaced, its episodes are played again. Closing the
    generator ends the workers; they also end by themselves when this process is killed.

    Raises:
        UserError: when the factories cannot be sent to a process, when the environment or the
            behavior raises one, or when an episode has lost `MAX_ATTEMPTS` workers.
        RuntimeError: when an episode raises anything else; carries the worker's traceback.
    """
    require_picklable(recorder, "The environment or the behavior", "workers=1")
    waiting, deaths = deque(indices), Counter[int]()
    pool: list[_Worker] = []
    try:
        for _ in range(min(workers, len(indices))):
            pool.append(_Worker(recorder))
            pool[-1].give(waiting)
        while busy := {w.connection: w for w in pool if w.pending}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]  # wait returns what it was given
                episode = worker.receive()
                if episode is None:
                    _count_death(worker, deaths)
                    waiting.extendleft(reversed(worker.pending))
                    pool[pool.index(worker)] = worker = _Worker(recorder)
                worker.give(waiting)
                if episode is not None:
                    yield episode
    finally:
        for worker in pool:
            worker.dismiss()
        for worker in pool:
            end_worker(worker.process)


class _Worker:
    """One worker process and the episodes it was given and has not returned."""

    def __init__(self, recorder: Recorder) -> None:
        self.pending: deque[int] = deque()
        self.process, self.connection = start_worker(_serve, recorder)

    def give(self, waiting: deque[int]) -> None:
        """Hand over waiting episodes until the worker holds `QUEUED` of them."""
        while waiting and len(self.pending) < QUEUED:
            self.pending.append(waiting.popleft())
            # A worker that has just died shows itself at the next `receive`.
            with suppress(OSError):
                self.connection.send(self.pending[-1])

    def receive(self) -> Episode | None:
        """Return the next finished episode, or None when the worker has died."""
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self.connection.close()
            end_worker(self.process)
            return None
        if isinstance(result, UserError):
            raise result
        if isinstance(result, str):
            raise RuntimeError(f"Episode {self.pending[0]} failed in a worker process:\n{result}")
        episode: Episode = result
        self.pending.popleft()
        return episode

    def dismiss(self) -> None:
        """Let the process go: an idle one leaves when its connection closes, others are told to."""
        self.connection.close()
        if self.pending:
            self.process.terminate()


def _serve(connection: Connection, recorder: Recorder) -> None:
    """Play the episodes whose indices arrive, until the other end is gone."""
    become_worker()
    failure: UserError | str
    try:
        for episode in recorder.play(_requests(connection)):
            connection.send(episode)
        return
    except UserError as error:
        failure = error
    except Exception:
        failure = traceback.format_exc()
    with suppress(OSError):
        connection.send(failure)


def _requests(connection: Connection) -> Iterator[int]:
    with suppress(EOFError, OSError):
        while True:
            yield connection.recv()


def _count_death(worker: _Worker, deaths: Counter[int]) -> None:
    index, code = worker.pending[0], worker.process.exitcode
    deaths[index] += 1
    if deaths[index] >= MAX_ATTEMPTS:
        raise UserError(
            f"Episode {index} has ended {MAX_ATTEMPTS} worker processes (the last with exit code "
            f"{code}; -9 usually means that memory ran out). Use fewer workers, or workers=1 to "
            "see what happens. Finished episodes are kept."
        )
    logger.warning(
        "A worker process died (exit code %s) while playing episode %d; playing it again.",
        code,
        index,
    )
