"""The training loop: update, log, validate, save; whatever the trainer."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from mads4.errors import UserError
from mads4.logging import Tracker
from mads4.models import SequencePolicy
from mads4.training import checkpoint
from mads4.training.checkpoint import TrainState, random_state, restore_random_state

_LOG = logging.getLogger(__name__)


class Trainer(Protocol):
    """What the loop needs of a trainer."""

    device: torch.device

    @property
    def policy(self) -> SequencePolicy:
        """The policy that is trained."""
        ...

    phase: str
    """What metrics of updates are logged under, for example ``offline``."""
    validation_phase: str
    """What metrics of validations are logged under."""

    def agent_steps(self, step: int) -> int:
        """Return how many decisions the first `step` updates have learned from."""
        ...

    def update(self, step: int) -> dict[str, Tensor]:
        """Take one step and return 0-d tensors by name."""
        ...

    def validate(self) -> dict[str, float]:
        """Return the metrics of a validation, without touching any random stream."""
        ...

    def criterion(self, metrics: Mapping[str, float]) -> float:
        """Return the number among `validate`'s by which the best is chosen; less is better."""
        ...

    def validated_policy(self) -> dict[str, Any]:
        """Return the weights that the latest validation is about."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the weights, as plain values."""
        ...

    def summary(self, state: TrainState) -> dict[str, Any]:
        """Return the entries of the run's record about the training."""
        ...

    def progress(self, metrics: Mapping[str, float]) -> str:
        """Return a few words for the progress bar, from the metrics logged last."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, ``policy`` among it."""
        ...

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@dataclass(frozen=True)
class Intervals:
    """When to do what, in optimizer steps."""

    steps: int
    log: int
    validation: int
    checkpoint: int
    keep: int | None = None
    evaluation: int | None = None


class Checkpoints:
    """Writes ``last.pt`` (all that resuming needs), ``best.pt`` and kept ones (weights only).

    Args:
        folder: ``checkpoints/`` of the run.
        about: what a reader of the weights needs: configuration, EnvSpec, data summary …
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self._about = dict(about)

    def save_last(self, trainer: Trainer, state: TrainState) -> None:
        """Save weights, optimizer, counters and random streams."""
        values = trainer.state_dict()
        values |= trainer.facts()
        values |= {"state": state.to_dict(), "random": random_state(trainer.device)}
        checkpoint.save(self.folder / "last.pt", self._about | values)

    def save_weights(self, trainer: Trainer, state: TrainState, name: str) -> None:
        """Save the weights that the latest validation is about as ``<name>.pt``."""
        values = trainer.facts()
        values |= {"policy": trainer.validated_policy(), "state": state.to_dict()}
        checkpoint.save(self.folder / f"{name}.pt", self._about | values)

    def restore(self, trainer: Trainer) -> TrainState:
        """Continue from ``last.pt`` where there is one, else begin.

        Raises:
            UserError: the data set is not the one that the run began with.
        """
        path = self.folder / "last.pt"
        if not path.exists():
            return TrainState()
        values = checkpoint.load(path)
        before, now = (about.get("data", {}).get("fingerprint") for about in (values, self._about))
        if before != now:
            raise UserError(
                f"{path} was trained on the data set with fingerprint {before}, but the present "
                f"one has {now}. Bring that data set back, or start a new run (in a new "
                "directory, with init_from=<this run> to keep the weights)."
            )
        trainer.load_state_dict(values)
        restore_random_state(values["random"], trainer.device)
        return TrainState.from_dict(values["state"])


def fit(
    trainer: Trainer,
    state: TrainState,
    intervals: Intervals,
    checkpoints: Checkpoints,
    tracker: Tracker,
    on_step: Callable[[TrainState, Mapping[str, float]], None],
    evaluate: Callable[[], Mapping[str, float]] = dict,
) -> TrainState:
    """Train from `state` to ``intervals.steps``; save before leaving, however one leaves.

    `on_step` is called with the state and the metrics logged last after every step. `evaluate`
    returns metrics of the policy in the environment every ``intervals.evaluation`` steps: logged as
    ``eval/…``, never used to choose; what it draws must not come from training's random streams.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came, and ``last.pt`` has been saved, even if the
            signal came in the very last step: what follows the training is not wanted either.
    """
    recent: list[dict[str, Tensor]] = []
    latest: dict[str, float] = {}
    began, before = time.perf_counter(), state.seconds
    saved = state.step
    with stop_on_signals() as stop:
        while state.step < intervals.steps and not stop.requested:
            recent.append(trainer.update(state.step))
            state.step += 1
            state.seconds = before + time.perf_counter() - began
            ended = state.step == intervals.steps
            if state.step % intervals.log == 0 or ended:
                metrics = _mean(recent)
                metrics["agent_steps_per_second"] = trainer.agent_steps(state.step) / state.seconds
                _log(tracker, state.step, trainer.phase, metrics)
                latest |= metrics
                recent.clear()
            if state.step % intervals.validation == 0 or ended:
                latest |= _validate(trainer, state, checkpoints, tracker)
            if intervals.evaluation and state.step % intervals.evaluation == 0:
                _log(tracker, state.step, "eval", evaluate())
            if intervals.keep and state.step % intervals.keep == 0:
                checkpoints.save_weights(trainer, state, f"step_{state.step:08d}")
            if state.step % intervals.checkpoint == 0 or ended:
                checkpoints.save_last(trainer, state)
                saved = state.step
            on_step(state, latest)
        if saved < state.step:
            checkpoints.save_last(trainer, state)
    if stop.requested:
        raise KeyboardInterrupt
    return state


def _validate(
    trainer: Trainer, state: TrainState, checkpoints: Checkpoints, tracker: Tracker
) -> dict[str, float]:
    """Validate, save the weights if they are the best so far, and return the metrics by phase."""
    metrics = trainer.validate()
    _log(tracker, state.step, trainer.validation_phase, metrics)
    found = trainer.criterion(metrics)
    if found < state.best_criterion:
        state.best_criterion, state.best_step = found, state.step
        checkpoints.save_weights(trainer, state, "best")
    return {f"{trainer.validation_phase}/{name}": value for name, value in metrics.items()}


def _log(tracker: Tracker, step: int, phase: str, metrics: Mapping[str, float]) -> None:
    tracker.log(step, {f"{phase}/{name}": value for name, value in metrics.items()})


def _mean(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    """Return each metric's mean over the updates that have it: not all do the same."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: float(torch.stack([row[name] for row in rows if name in row]).mean())
        for name in names
    }


class StopRequest:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle a signal; a second Ctrl-C raises at once."""
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        _LOG.warning(
            "%s: saving, then stopping; Ctrl-C once more stops at once.",
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
