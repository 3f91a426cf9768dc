"""The training loop: update, log, validate, save; whatever the trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mads4 import checkpoint
from mads4.errors import UserError
from mads4.tracking import Tracker
from mads4.train.signals import stop_on_signals
from mads4.train.state import TrainState, random_state, restore_random_state


class Trainer(Protocol):
    """What the loop needs of a trainer."""

    device: torch.device

    @property
    def agent_steps_per_update(self) -> int:
        """Decisions learned from in one update."""
        ...

    def update(self, step: int) -> dict[str, Tensor]:
        """Take one step and return 0-d tensors by name."""
        ...

    def validate(self) -> dict[str, float]:
        """Return held-out metrics, ``loss`` among them, without touching any random stream."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, ``policy`` among it."""
        ...

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@dataclass(frozen=True)
class Intervals:
    """When to do what, in optimiser steps."""

    steps: int
    log: int
    validation: int
    checkpoint: int
    keep: int | None = None


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
        """Save weights, optimiser, counters and random streams."""
        values = trainer.state_dict()
        values |= {"state": state.to_dict(), "random": random_state(trainer.device)}
        checkpoint.save(self.folder / "last.pt", self._about | values)

    def save_weights(self, trainer: Trainer, state: TrainState, name: str) -> None:
        """Save the weights as ``<name>.pt``."""
        values = {"policy": trainer.state_dict()["policy"], "state": state.to_dict()}
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
    on_step: Callable[[TrainState, float], None],
) -> TrainState:
    """Train from `state` to ``intervals.steps``; save before leaving, however one leaves.

    `on_step` is called with the state and the latest logged loss after every step.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came, and ``last.pt`` has been saved, even if the
            signal came in the very last step: what follows the training is not wanted either.
    """
    recent: list[dict[str, Tensor]] = []
    loss, began, before = float("nan"), time.perf_counter(), state.seconds
    saved = state.step
    with stop_on_signals() as stop:
        while state.step < intervals.steps and not stop.requested:
            recent.append(trainer.update(state.step))
            state.step += 1
            state.seconds = before + time.perf_counter() - began
            ended = state.step == intervals.steps
            if state.step % intervals.log == 0 or ended:
                metrics = _mean(recent)
                loss, speed = metrics["loss"], trainer.agent_steps_per_update * state.step
                metrics["agent_steps_per_second"] = speed / state.seconds
                tracker.log(state.step, {f"offline/{k}": v for k, v in metrics.items()})
                recent.clear()
            if state.step % intervals.validation == 0 or ended:
                _validate(trainer, state, checkpoints, tracker)
            if intervals.keep and state.step % intervals.keep == 0:
                checkpoints.save_weights(trainer, state, f"step_{state.step:08d}")
            if state.step % intervals.checkpoint == 0 or ended:
                checkpoints.save_last(trainer, state)
                saved = state.step
            on_step(state, loss)
        if saved < state.step:
            checkpoints.save_last(trainer, state)
    if stop.requested:
        raise KeyboardInterrupt
    return state


def _validate(
    trainer: Trainer, state: TrainState, checkpoints: Checkpoints, tracker: Tracker
) -> None:
    metrics = trainer.validate()
    tracker.log(state.step, {f"validation/{k}": v for k, v in metrics.items()})
    if metrics["loss"] < state.best_validation_loss:
        state.best_validation_loss = metrics["loss"]
        state.best_step = state.step
        checkpoints.save_weights(trainer, state, "best")


def _mean(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    return {name: float(torch.stack([row[name] for row in rows]).mean()) for name in rows[0]}
