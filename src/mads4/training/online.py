"""The online phase: collect whole episodes, compare policies by their returns, learn from them.

Episodes are collected in the recurrent view and learned from in the convolutional one, in segments
that start from the policy's recorded states. With ``async_rollout`` the next iteration is collected
meanwhile, by the weights before the present update.
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
from mads4.training.checkpoint import TrainState
from mads4.training.collector import AsyncCollector, Collector, Rollout

PARITY_EPISODES, PARITY_STEPS = 2, 100
"""Episodes and their first time steps on which both views are compared before training."""

_LOG = logging.getLogger(__name__)


class OnlineTrainer:
    """One iteration of online training, and the state that a checkpoint holds.

    Args:
        algorithm: the policy and its updates.
        collector: of the episodes.
        config: episodes, target returns and tolerances.
        best_return: best return so far, of the data; 0 without.
        device: of the tensors.
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
        self._acted = self._best
        self._async = AsyncCollector(collector) if config.async_rollout else None
        self._next_weights: Weights | None = None
        self._parity_checked = False

    @property
    def policy(self) -> SequencePolicy:
        """The policy that acts and is trained."""
        return self.algorithm.policy

    def agent_steps(self, step: int) -> int:
        """Return the number of actions learned from so far."""
        return self.tracker.environment_steps * self.policy.spec.n_agents

    def update(self, step: int) -> dict[str, Tensor]:
        """Collect and learn from iteration `step` (from 0); return its metrics as 0-d tensors.

        Raises:
            UserError: the policy's two views disagree, so that training in the one would optimize
                another policy than the one that acts.
        """
        rollout = self._collect(step)
        random_order = self.policy.agent_order == "random"
        episodes = Episodes.of(rollout.episodes, random_order).to(self.device)
        self._require_parity(episodes)
        self._acted = rollout.weights
        metrics = self._compare(rollout.episodes)
        self._start_next(step + 1)
        if not metrics["rolled_back"]:
            with self._threads():
                experience = self.algorithm.assess(episodes, rollout.policy)
                metrics |= self.algorithm.learn(experience, step)
        return {name: torch.as_tensor(float(value)) for name, value in metrics.items()}

    def _collect(self, step: int) -> Rollout:
        """Return the episodes of iteration `step`, collected now or in the meantime."""
        if self._async is None:
            weights = self.algorithm.weights()
            episodes = self.collector.collect(self.policy, step, self.tracker.best_return)
            return Rollout(self.policy, weights, episodes)
        if self._async.weights is None:
            self._start(self._async, self._next_weights or self.algorithm.weights(), step)
        return self._async.result()

    def _start_next(self, step: int) -> None:
        """Start iteration `step`; beyond the last one, only keep the weights that would act."""
        if self._async is not None:
            self._next_weights = self.algorithm.weights()
            if step < self.config.iterations:
                self._start(self._async, self._next_weights, step)

    def _threads(self) -> AbstractContextManager[None]:
        """Use half of the CPU threads while the next episodes are collected."""
        if self._async is None or self._async.weights is None:
            return nullcontext()
        return threads(max(1, torch.get_num_threads() // 2))

    def _start(self, collector: AsyncCollector, weights: Weights, step: int) -> None:
        collector.start(self.policy, weights, step, self.tracker.best_return)
        self._next_weights = None

    def _compare(self, episodes: list[EpisodeResult]) -> dict[str, float]:
        """Record the returns; keep the weights if they are the best, roll back if they degraded."""
        self.algorithm.buffer.keep(episodes)
        verdict = self.tracker.update(episodes)
        if verdict == "best":
            self._best = self._acted
        elif verdict == "degraded":
            _LOG.warning(
                "return %.3g is more than %.0f%% below the best, %.3g: rolling back to its weights",
                self.tracker.average,
                100 * (self.config.rollback_tolerance or 0.0),
                self.tracker.best_average,
            )
            self.algorithm.restore(self._best)
        returns = np.array([one.episode_return for one in episodes])
        return {
            "return_mean": float(returns.mean()),
            "return_max": float(returns.max()),
            "target_return": float(np.mean([one.target_return for one in episodes])),
            "environment_steps": float(self.tracker.environment_steps),
            "rolled_back": float(verdict == "degraded"),
        }

    @torch.no_grad()
    def _require_parity(self, episodes: Episodes) -> None:
        """Compare both views on the start of the first episodes, once in a process."""
        if self._parity_checked:
            return
        part = episodes.batch.map(lambda values: values[:PARITY_EPISODES, :PARITY_STEPS])
        order = None if episodes.order is None else episodes.order[:PARITY_EPISODES]
        views = self.policy.sequence(part, order=order).logits, unroll(self.policy, part, order)
        one, other = (view.log_softmax(-1) for view in views)
        valid = part.available_actions & part.mask[..., None, None]
        difference = float((one - other)[valid].abs().max())
        if not difference <= self.config.parity_tolerance:
            raise UserError(
                f"The policy's convolutional and recurrent views differ by {difference:.2g} in "
                "log-probability, more than trainer.parity_tolerance="
                f"{self.config.parity_tolerance:g}: what is learned in the one would not be what "
                "the other does. Use another kernel backend (kernel=torch), a diagonal "
                "parameterization, or a larger tolerance if you know why."
            )
        _LOG.info("the policy's views differ by at most %.1e in log-probability", difference)
        self._parity_checked = True

    def validate(self) -> dict[str, float]:
        """Return the average return of the weights that acted last."""
        return {"return_average": self.tracker.average}

    def criterion(self, metrics: Mapping[str, float]) -> float:
        """Return minus the average return; infinite until enough episodes have been averaged."""
        return -metrics["return_average"] if self.tracker.settled else float("inf")

    def validated_policy(self) -> dict[str, Any]:
        """Return the weights that acted in the latest episodes."""
        return self._acted["policy"]

    def facts(self) -> dict[str, Any]:
        """Return the returns that target returns are relative to: best, latest average, lowest."""
        tracker = self.tracker
        return {
            "returns": {
                "return_max": tracker.best_return,
                "return_mean": tracker.average,
                "return_min": tracker.lowest,
            }
        }

    def summary(self, state: TrainState) -> dict[str, Any]:
        """Return the counters of the training, and the criterion of the best weights."""
        return {
            "best_average_return": self.tracker.best_average,
            "last_average_return": self.tracker.average,
            "best_chosen_by": "average return of training's own episodes",
            "environment_steps": self.tracker.environment_steps,
            "rollbacks": self.tracker.rollbacks,
        }

    def progress(self, metrics: Mapping[str, float]) -> str:
        """Return the latest returns for the progress bar."""
        words = [f"return {metrics['return_mean']:.1f}"] if "return_mean" in metrics else []
        if self.tracker.settled:
            words.append(f"best average {self.tracker.best_average:.1f}")
        return ", ".join(words)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming exactly needs."""
        return {
            **self.algorithm.state_dict(),
            "best_weights": self._best,
            "playing": None if self._async is None else self._async.weights or self._next_weights,
            "tracker": self.tracker.state_dict(),
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.algorithm.load_state_dict(values)
        self._best = values["best_weights"]
        self._next_weights = values.get("playing")
        self.tracker.load_state_dict(values["tracker"])

    def close(self) -> None:
        """Stop collecting, and close the environments."""
        try:
            if self._async is not None:
                self._async.close()
        finally:
            self.collector.close()
