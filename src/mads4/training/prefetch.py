"""Batches on the training device, optionally prefetched by one step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import torch

from mads4.types import SequenceBatch


class DeviceBatches:
    """Moves a sampler's batches to a device, and may prefetch the next one in a thread.

    A batch depends on its step alone, so prefetching changes no result, and resuming or jumping to
    another step needs nothing. There is one thread per batch, which ends with it: nothing has to be
    stopped. An error in it is raised where its batch is requested.

    Args:
        batch: returns the batch of a step.
        device: destination. To a GPU they are copied on a stream of their own, in parallel with the
            computation; from pinned memory, without blocking the host.
        ahead: prefetch. Worth it for a GPU, which would wait, and for data read from disk.
        steps: no batch is prefetched from this step on.
    """

    def __init__(
        self,
        batch: Callable[[int], SequenceBatch],
        device: torch.device,
        *,
        ahead: bool,
        steps: int,
    ) -> None:
        self._batch = batch
        self._device = device
        self._steps = steps if ahead else 0
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._prefetched: tuple[int, Future[SequenceBatch]] | None = None

    def batch(self, step: int) -> SequenceBatch:
        """Return the batch of `step`, ready for use on the current stream."""
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is not None and prefetched[0] == step:
            batch = prefetched[1].result()
        else:
            batch = self._prepare(step)
        self._wait_for_copies(batch)
        if step + 1 < self._steps:
            self._prefetch(step + 1)
        return batch

    def _prefetch(self, step: int) -> None:
        """Prepare the batch of `step` in a thread."""
        future: Future[SequenceBatch] = Future()

        def run() -> None:
            try:
                future.set_result(self._prepare(step))
            except BaseException as error:
                future.set_exception(error)

        self._prefetched = step, future
        threading.Thread(target=run, name=f"batch {step}").start()

    def _prepare(self, step: int) -> SequenceBatch:
        if self._stream is None:
            return self._batch(step).to(self._device)
        with torch.cuda.stream(self._stream):
            return self._batch(step).to(self._device)

    def _wait_for_copies(self, batch: SequenceBatch) -> None:
        """Let the current stream wait for the copies, and keep their memory from being reused."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in vars(batch).values():
                tensor.record_stream(current)
