"""The online phase: play whole episodes, compare policies by their returns, learn from them.

Episodes are played in the recurrent view and learned from in the convolutional one, in segments,
from the states that the policy was in when they began. With `overlap` the next ones are played
meanwhile, so that each iteration's have been played by the weights of one iteration before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mads4.algorithms.mappo import MAPPO, Weights
from mads4.algorithms.rollout_buffer import Episodes
from mads4.config import OnlineTrainerConfig
from mads4.errors import UserError
from mads4.models import SequencePolicy
from mads4.models.base import unroll
from mads4.rollout import EpisodeResult, threads
from mads4.training.best_tracker import BestTracker
from mads4.training.collector import AsyncCollector, Collector, Turn
from mads4.training.state import TrainState

PARITY_EPISODES, PARITY_STEPS = 2, 100
"""How much is played through both views before training begins."""

_LOG = logging.getLogger(__name__)


class OnlineTrainer:
    """One iteration of online training, and all that a checkpoint must hold of it.

    Args:
        algorithm: the policy, and how it learns.
        collector: plays the episodes.
        config: episodes, targets and tolerances.
        best_return: best return known, of the data or none (0).
        device: where tensors live.
    """

    phase = "online"
    validation_phase = "online"

    def __init__(
        self,
        algorithm: MAPPO,
        collector: Collector,
        config: OnlineTrainerConfig,
        best_return: float,
        device: torch.device,
    ) -> None:
        self.algorithm = algorithm
        self.collector = collector
        self.config = config
        self.device = device
        self.tracker = BestTracker(best_return, config.return_window, config.rollback_tolerance)
        self._best = algorithm.weights()
        self._played = self._best
        self._async = AsyncCollector(collector) if config.async_rollout else None
        self._unplayed: Weights | None = None
        self._parity_known = False

    @property
    def policy(self) -> SequencePolicy:
        """The policy that acts and learns."""
        return self.algorithm.policy

    def agent_steps(self, step: int) -> int:
        """Return how many decisions have been learned from so far."""
        return self.tracker.environment_steps * self.policy.spec.n_agents

    def update(self, step: int) -> dict[str, Tensor]:
        """Play and learn from iteration `step` (from 0); return its metrics as 0-d tensors.

        Raises:
            UserError: the policy's two views disagree, so that learning in the one would not be
                learning what the other does.
        """
        turn = self._turn(step)
        episodes = Episodes.of(turn.played, self.policy.agent_order == "random").to(self.device)
        self._require_parity(episodes)
        self._played = turn.weights
        metrics = self._compare(turn.played)
        self._play_ahead(step + 1)
        if not metrics["rolled_back"]:
            with self._threads():
                metrics |= self.algorithm.learn(self.algorithm.assess(episodes, turn.policy), step)
        return {name: torch.as_tensor(float(value)) for name, value in metrics.items()}

    def _turn(self, step: int) -> Turn:
        """Return iteration `step` as it was, or is now, played."""
        if self._async is None:
            weights = self.algorithm.weights()
            played = self.collector.play(self.policy, step, self.tracker.best_return)
            return Turn(self.policy, weights, played)
        if self._async.weights is None:
            self._begin(self._async, self._unplayed or self.algorithm.weights(), step)
        return self._async.take()

    def _play_ahead(self, step: int) -> None:
        """Start iteration `step`; beyond the last one, only keep the weights that would play it."""
        if self._async is not None:
            self._unplayed = self.algorithm.weights()
            if step < self.config.iterations:
                self._begin(self._async, self._unplayed, step)

    def _threads(self) -> AbstractContextManager[None]:
        """Use half of the CPU threads while the next episodes are played."""
        if self._async is None or self._async.weights is None:
            return nullcontext()
        return threads(max(1, torch.get_num_threads() // 2))

    def _begin(self, collector: AsyncCollector, weights: Weights, step: int) -> None:
        collector.begin(self.policy, weights, step, self.tracker.best_return)
        self._unplayed = None

    def _compare(self, played: list[EpisodeResult]) -> dict[str, float]:
        """Record the returns; keep the weights if they are the best, roll back if they degraded."""
        self.algorithm.buffer.keep(played)
        change = self.tracker.update(played)
        if change == "best":
            self._best = self._played
        elif change == "degraded":
            _LOG.warning(
                "return %.3g is more than %.0f%% below the best, %.3g: rolling back to its weights",
                self.tracker.average,
                100 * (self.config.rollback_tolerance or 0.0),
                self.tracker.best_average,
            )
            self.algorithm.restore(self._best)
        returns = np.array([one.episode_return for one in played])
        return {
            "return_mean": float(returns.mean()),
            "return_max": float(returns.max()),
            "target_return": float(np.mean([one.target_return for one in played])),
            "environment_steps": float(self.tracker.environment_steps),
            "rolled_back": float(change == "degraded"),
        }

    @torch.no_grad()
    def _require_parity(self, episodes: Episodes) -> None:
        """Compare both views on the beginning of the first episodes, once in a process."""
        if self._parity_known:
            return
        part = episodes.batch.map(lambda values: values[:PARITY_EPISODES, :PARITY_STEPS])
        order = None if episodes.order is None else episodes.order[:PARITY_EPISODES]
        views = self.policy.sequence(part, order=order).logits, unroll(self.policy, part, order)
        one, other = (view.log_softmax(-1) for view in views)
        known = part.available_actions & part.mask[..., None, None]
        apart = float((one - other)[known].abs().max())
        if not apart <= self.config.parity_tolerance:
            raise UserError(
                f"The policy's convolutional and recurrent views differ by {apart:.2g} in "
                "log-probability, more than trainer.parity_tolerance="
                f"{self.config.parity_tolerance:g}: what is learned in the one would not be what "
                "the other does. Use another kernel backend (kernel=torch), a diagonal "
                "parameterization, or a larger tolerance if you know why."
            )
        _LOG.info("the policy's views differ by at most %.1e in log-probability", apart)
        self._parity_known = True

    def validate(self) -> dict[str, float]:
        """Return the average return of the weights that played last."""
        return {"return_average": self.tracker.average}

    def criterion(self, metrics: Mapping[str, float]) -> float:
        """Return minus the average return; infinite until enough episodes have been averaged."""
        return -metrics["return_average"] if self.tracker.settled else float("inf")

    def validated_policy(self) -> dict[str, Any]:
        """Return the weights that played the latest episodes."""
        return self._played["policy"]

    def facts(self) -> dict[str, Any]:
        """Return what targets are relative to from now on: the best return, the latest average."""
        tracker = self.tracker
        return {
            "returns": {
                "return_max": tracker.best_return,
                "return_mean": tracker.average,
                "return_min": tracker.lowest,
            }
        }

    def summary(self, state: TrainState) -> dict[str, Any]:
        """Return what the training has seen, and what the best weights were chosen by."""
        return {
            "best_average_return": self.tracker.best_average,
            "last_average_return": self.tracker.average,
            "best_chosen_by": "average return of training's own episodes",
            "environment_steps": self.tracker.environment_steps,
            "rollbacks": self.tracker.rollbacks,
        }

    def progress(self, metrics: Mapping[str, float]) -> str:
        """Say what is returned."""
        words = [f"return {metrics['return_mean']:.1f}"] if "return_mean" in metrics else []
        if self.tracker.settled:
            words.append(f"best average {self.tracker.best_average:.1f}")
        return ", ".join(words)

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs."""
        return {
            **self.algorithm.state_dict(),
            "best_weights": self._best,
            "playing": None if self._async is None else self._async.weights or self._unplayed,
            "tracker": self.tracker.state_dict(),
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.algorithm.load_state_dict(values)
        self._best = values["best_weights"]
        self._unplayed = values.get("playing")
        self.tracker.load_state_dict(values["tracker"])

    def close(self) -> None:
        """Give up what is being played, and end the environments."""
        try:
            if self._async is not None:
                self._async.close()
        finally:
            self.collector.close()
