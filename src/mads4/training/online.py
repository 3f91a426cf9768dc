"""Online training: play whole episodes, judge the policy by their returns, learn from them.

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

from mads4.algorithms.mappo import Mappo, Weights
from mads4.config import OnlineTrainerConfig
from mads4.errors import UserError
from mads4.models import SequencePolicy
from mads4.models.base import unroll
from mads4.rollout.rollout import EpisodeResult, threads
from mads4.training.async_collector import AsyncCollector, Turn
from mads4.training.best_tracker import BestTracker
from mads4.training.collector import Collector
from mads4.training.rollout_buffer import Episodes
from mads4.training.state import TrainState

PARITY_EPISODES, PARITY_STEPS = 2, 100
"""How much is played through both views before training begins."""

_LOG = logging.getLogger(__name__)


class OnlineTrainer:
    """One iteration of online training, and all that a checkpoint must hold of it.

    Args:
        learner: the policy, and how it learns.
        collector: plays the episodes.
        config: how the policy is judged.
        best_return: best return known, of the data or none (0).
        device: where tensors live.
    """

    phase = "online"
    validation_phase = "online"

    def __init__(
        self,
        learner: Mappo,
        collector: Collector,
        config: OnlineTrainerConfig,
        best_return: float,
        device: torch.device,
    ) -> None:
        self.learner = learner
        self.collector = collector
        self.config = config
        self.device = device
        self.standing = BestTracker(best_return, config.smoothing, config.rollback)
        self._best = learner.weights()
        self._judged = self._best
        self._ahead = AsyncCollector(collector) if config.overlap else None
        self._unplayed: Weights | None = None
        self._parity_known = False

    @property
    def policy(self) -> SequencePolicy:
        """The policy that acts and learns."""
        return self.learner.policy

    def agent_steps(self, step: int) -> int:
        """Return how many decisions have been learned from so far."""
        return self.standing.environment_steps * self.policy.spec.n_agents

    def update(self, step: int) -> dict[str, Tensor]:
        """Play and learn from iteration `step` (from 0); return its metrics as 0-d tensors.

        Raises:
            UserError: the policy's two views disagree, so that learning in the one would not be
                learning what the other does.
        """
        turn = self._turn(step)
        episodes = Episodes.of(turn.played, self.policy.agent_order == "random").to(self.device)
        self._require_parity(episodes)
        self._judged = turn.weights
        metrics = self._judge(turn.played)
        self._go_ahead(step + 1)
        if not metrics["rolled_back"]:
            with self._threads():
                metrics |= self.learner.learn(self.learner.assess(episodes, turn.policy), step)
        return {name: torch.as_tensor(float(value)) for name, value in metrics.items()}

    def _turn(self, step: int) -> Turn:
        """Return iteration `step` as it was, or is now, played."""
        if self._ahead is None:
            weights = self.learner.weights()
            played = self.collector.play(self.policy, step, self.standing.best_return)
            return Turn(self.policy, weights, played)
        if self._ahead.weights is None:
            self._begin(self._ahead, self._unplayed or self.learner.weights(), step)
        return self._ahead.take()

    def _go_ahead(self, step: int) -> None:
        """Begin iteration `step`; if it is beyond the last one, note who would play it."""
        if self._ahead is not None:
            self._unplayed = self.learner.weights()
            if step < self.config.iterations:
                self._begin(self._ahead, self._unplayed, step)

    def _threads(self) -> AbstractContextManager[None]:
        """Use half of the CPU threads while others play: they wait for each other, busily."""
        if self._ahead is None or self._ahead.weights is None:
            return nullcontext()
        return threads(max(1, torch.get_num_threads() // 2))

    def _begin(self, ahead: AsyncCollector, weights: Weights, step: int) -> None:
        ahead.begin(self.policy, weights, step, self.standing.best_return)
        self._unplayed = None

    def _judge(self, played: list[EpisodeResult]) -> dict[str, float]:
        """Note the returns; keep the weights if they are the best, go back if they fell too far."""
        self.learner.cloning.keep(played)
        verdict = self.standing.judge(played)
        if verdict == "best":
            self._best = self._judged
        elif verdict == "fallen":
            _LOG.warning(
                "return %.3g is more than %.0f%% below the best, %.3g: going back to its weights",
                self.standing.average,
                100 * (self.config.rollback or 0.0),
                self.standing.best_average,
            )
            self.learner.go_back(self._best)
        returns = np.array([one.episode_return for one in played])
        return {
            "return_mean": float(returns.mean()),
            "return_max": float(returns.max()),
            "target_return": float(np.mean([one.target_return for one in played])),
            "environment_steps": float(self.standing.environment_steps),
            "rolled_back": float(verdict == "fallen"),
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
        """Return the average return by which the weights that played last are judged."""
        return {"return_average": self.standing.average}

    def criterion(self, metrics: Mapping[str, float]) -> float:
        """Return minus the average return; infinite until enough episodes have been averaged."""
        return -metrics["return_average"] if self.standing.settled else float("inf")

    def judged_policy(self) -> dict[str, Any]:
        """Return the weights that played the latest episodes."""
        return self._judged["policy"]

    def facts(self) -> dict[str, Any]:
        """Return what targets are relative to from now on: the best return, the latest average."""
        standing = self.standing
        return {
            "returns": {
                "return_max": standing.best_return,
                "return_mean": standing.average,
                "return_min": standing.lowest,
            }
        }

    def summary(self, state: TrainState) -> dict[str, Any]:
        """Return what the training has seen, and what the best weights were chosen by."""
        return {
            "best_average_return": self.standing.best_average,
            "last_average_return": self.standing.average,
            "best_chosen_by": "average return of training's own episodes",
            "environment_steps": self.standing.environment_steps,
            "rollbacks": self.standing.falls,
        }

    def progress(self, metrics: Mapping[str, float]) -> str:
        """Say what is returned."""
        words = [f"return {metrics['return_mean']:.1f}"] if "return_mean" in metrics else []
        if self.standing.settled:
            words.append(f"best average {self.standing.best_average:.1f}")
        return ", ".join(words)

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs."""
        return {
            **self.learner.state_dict(),
            "best_weights": self._best,
            "playing": None if self._ahead is None else self._ahead.weights or self._unplayed,
            "standing": self.standing.state_dict(),
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.learner.load_state_dict(values)
        self._best = values["best_weights"]
        self._unplayed = values.get("playing")
        self.standing.load_state_dict(values["standing"])

    def close(self) -> None:
        """Give up what is being played, and end the environments."""
        try:
            if self._ahead is not None:
                self._ahead.close()
        finally:
            self.collector.close()
