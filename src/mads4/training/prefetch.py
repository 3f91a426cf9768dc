"""Batches on the device that computes, the next one prepared while the present one is used."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from mads4.types import SequenceBatch


class DeviceBatches:
    """Moves a sampler's batches to a device, and may work one batch ahead in a thread.

    What a batch holds depends on its step alone, so working ahead changes no result, and resuming
    or jumping to another step needs nothing. There is one thread per batch, which ends with it:
    nothing has to be stopped. An error in it is raised where its batch is asked for.

    Args:
        batch: returns the batch of a step.
        device: where batches go. To a GPU they are copied on a stream of their own, beside the
            computation; from page-locked memory, the host does not wait for that either.
        ahead: work ahead. Worth it for a GPU, which would wait, and for data read from disk.
        steps: no batch is prepared from this step on.
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
        self._next: _Job | None = None

    def batch(self, step: int) -> SequenceBatch:
        """Return the batch of `step`, ready for use on the current stream."""
        job, self._next = self._next, None
        if job is None or job.step != step:
            job = _Job(self._prepare, step)
            job.run()
        batch = self._received(job.result())
        if step + 1 < self._steps:
            self._next = _Job(self._prepare, step + 1)
            self._next.start()
        return batch

    def _prepare(self, step: int) -> SequenceBatch:
        if self._stream is None:
            return self._batch(step).to(self._device)
        with torch.cuda.stream(self._stream):
            return self._batch(step).to(self._device)

    def _received(self, batch: SequenceBatch) -> SequenceBatch:
        """Let the current stream wait for the copies, and keep their memory from being reused."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in vars(batch).values():
                tensor.record_stream(current)
        return batch


class _Job(threading.Thread):
    """Prepares one batch, in a thread (`start`) or at once (`run`)."""

    def __init__(self, prepare: Callable[[int], SequenceBatch], step: int) -> None:
        super().__init__(name=f"batch {step}")
        self.step = step
        self._prepare = prepare
        self._found: SequenceBatch | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Prepare the batch, or keep the error."""
        try:
            self._found = self._prepare(self.step)
        except BaseException as error:
            self._error = error

    def result(self) -> SequenceBatch:
        """Return the batch once it is there, or raise what went wrong."""
        if self.is_alive():
            self.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found
