"""Online training: multi-agent PPO through the agents' chain (MAPPO, Yu et al. 2022).

An iteration plays whole episodes in the recurrent view, judges the policy by their returns, and
takes optimiser steps on segments of them in the convolutional view, from the states that the
policy was in when they began. The objective is the joint chain's: every agent's action has a ratio
of its own, and messages are written anew with the present weights, so that gradients of an agent's
ratio reach its predecessors.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mads4.config import OnlineTrainerConfig
from mads4.errors import UserError
from mads4.models import SequencePolicy
from mads4.models.critic import Critic
from mads4.models.unroll import unroll
from mads4.nn.ssm import ssm_parameters
from mads4.rollout import Played
from mads4.train.cloning import Cloning
from mads4.train.collector import Collector
from mads4.train.experience import Episodes, Experience, assess
from mads4.train.leash import Leash
from mads4.train.ppo import (
    clipped_objective,
    clipped_value_loss,
    divergence,
    entropy,
    log_probabilities,
    masked_mean,
)
from mads4.train.standing import Standing
from mads4.train.state import TrainState
from mads4.types import SequenceBatch

PARITY_EPISODES, PARITY_STEPS = 2, 100
"""How much is played through both views before training begins."""

_LOG = logging.getLogger(__name__)


class OnlineTrainer:
    """One iteration of online training, and all that a checkpoint must hold of it.

    Args:
        policy: pretrained or fresh, already on `device`; it acts and learns without dropout.
        pretrained: keep the policy on a leash to what it is now.
        collector: plays the episodes.
        cloning: what behaviour cloning is mixed in from.
        config: all the numbers.
        best_return: best return known, of the data or none (0).
        seed: of the order of minibatches.
        device: where tensors live.
    """

    phase = "online"
    validation_phase = "online"

    def __init__(
        self,
        policy: SequencePolicy,
        *,
        pretrained: bool,
        collector: Collector,
        cloning: Cloning,
        config: OnlineTrainerConfig,
        best_return: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.policy = policy.eval()
        self.config = config
        self.device = device
        self.collector = collector
        self.cloning = cloning
        self.leash = Leash(config.leash_weight if pretrained else 0.0, config.leash_divergence)
        self.reference = copy.deepcopy(policy).requires_grad_(False) if self.leash.weight else None
        self.critic = Critic(
            policy.spec,
            policy.latent_dim,
            width=config.critic_width,
            normalisation=policy.embedding.normalisation,
        ).to(device)
        self.critic.embedding.set_normalisation(dict(policy.embedding.named_buffers()))
        _freeze(policy, config.freeze)
        self.actor_optimizer = torch.optim.Adam(
            [p for p in policy.parameters() if p.requires_grad], config.actor_learning_rate
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), config.critic_learning_rate
        )
        self.standing = Standing(best_return, config.smoothing, config.rollback)
        self._best: dict[str, dict[str, Tensor]] = self._weights()
        self._judged = self._best
        self._seed = seed
        self._parity_known = False

    def agent_steps(self, step: int) -> int:
        """Return how many decisions have been learned from so far."""
        return self.standing.environment_steps * self.policy.spec.n_agents

    def update(self, step: int) -> dict[str, Tensor]:
        """Play and learn from iteration `step` (from 0); return its metrics as 0-d tensors.

        Raises:
            UserError: the policy's two views disagree, so that learning in the one would not be
                learning what the other does.
        """
        played = self.collector.play(self.policy, step, self.standing.best_return)
        episodes = Episodes.of(played, self.policy.agent_order == "random").to(self.device)
        self._require_parity(episodes)
        self._judged = self._weights()
        metrics = self._judge(played)
        if not metrics["rolled_back"]:
            experience = assess(
                episodes,
                self.policy,
                self.critic,
                self.reference,
                segment=self.config.segment,
                gamma=self.config.gamma,
                lam=self.config.gae_lambda,
            )
            metrics |= self._learn(experience, step)
        return {name: torch.as_tensor(float(value)) for name, value in metrics.items()}

    def _judge(self, played: list[Played]) -> dict[str, float]:
        """Note the returns; keep the weights if they are the best, go back if they fell too far."""
        self.cloning.keep(played)
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
            self._restore(self._best)
            self.actor_optimizer.state.clear()
            self.critic_optimizer.state.clear()
        returns = np.array([one.episode_return for one in played])
        return {
            "return_mean": float(returns.mean()),
            "return_max": float(returns.max()),
            "target_return": float(np.mean([one.target_return for one in played])),
            "environment_steps": float(self.standing.environment_steps),
            "rolled_back": float(verdict == "fallen"),
        }

    def _learn(self, experience: Experience, step: int) -> dict[str, float]:
        """Take an iteration's optimiser steps; return their mean metrics."""
        config = self.config
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        self.critic.value.update(experience.value_target[experience.batch.mask])
        with_actor = step >= config.critic_warmup
        draws = torch.Generator().manual_seed(_mixed(self._seed, step))
        for epoch in range(config.epochs):
            moved: list[Tensor] = []
            order = torch.randperm(len(experience), generator=draws)
            for number, rows in enumerate(torch.split(order, config.batch_size)):
                part = experience.select(rows.to(self.device))
                found = self._critic_step(part)
                if with_actor:
                    cloned = self.cloning.batch(step, epoch, number)
                    found |= self._actor_step(part, cloned)
                    moved.append(found["divergence"].detach())
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
                    counts[name] = counts.get(name, 0) + 1
            limit = config.stop_divergence
            if with_actor and limit is not None and float(torch.stack(moved).mean()) > limit:
                with_actor = False  # the critic may go on
        metrics = {name: float(total) / counts[name] for name, total in sums.items()}
        if "leash_divergence" in metrics:
            self.leash.follow(metrics["leash_divergence"])
            metrics["leash_weight"] = self.leash.weight
        real = experience.batch.mask
        metrics["explained_variance"] = _explained(
            experience.value[real], experience.value_target[real]
        )
        return metrics

    def _critic_step(self, part: Experience) -> dict[str, Tensor]:
        head = self.critic.value
        loss = clipped_value_loss(
            self.critic(part.batch, part.latent),
            head.normalise(part.value),
            head.normalise(part.value_target),
            self.config.value_clip,
            part.batch.mask,
        )
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(
            self.critic.parameters(), self.config.grad_clip, error_if_nonfinite=True
        )
        self.critic_optimizer.step()
        return {"value_loss": loss}

    def _actor_step(self, part: Experience, cloned: SequenceBatch | None) -> dict[str, Tensor]:
        config, mask = self.config, part.batch.mask
        logits = self._logits(part)
        change = log_probabilities(logits, part.batch.action) - part.log_probability
        ratio = torch.where(mask.unsqueeze(-1), change, 0.0).exp()
        metrics = {
            "objective": clipped_objective(ratio, part.advantage, config.clip, mask),
            "entropy": entropy(logits, mask),
            "divergence": divergence(part.logits, logits, mask),
            "clipped": masked_mean(((ratio - 1.0).abs() > config.clip).to(ratio.dtype), mask),
        }
        loss = -metrics["objective"] - config.entropy * metrics["entropy"]
        if part.reference is not None:
            metrics["leash_divergence"] = divergence(logits, part.reference, mask)
            loss = loss + self.leash.weight * metrics["leash_divergence"]
        if cloned is not None:
            metrics["cloning_loss"] = self.cloning.loss(self.policy, cloned.to(self.device))
            loss = loss + config.cloning_weight * metrics["cloning_loss"]
        self.actor_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        metrics["gradient_norm"] = nn.utils.clip_grad_norm_(
            self.policy.parameters(), config.grad_clip, error_if_nonfinite=True
        )
        self.actor_optimizer.step()
        return metrics

    def _logits(self, part: Experience) -> Tensor:
        """Return the present policy's logits (R, L, N, n_actions), in the chosen view."""
        if self.config.gradients == "recurrent":
            return unroll(self.policy, part.batch, part.order, part.state)
        return self.policy.sequence(part.batch, order=part.order, state=part.state).logits

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
                "parameterisation, or a larger tolerance if you know why."
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

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """Return a copy of the networks' weights."""
        return {
            name: {key: value.clone() for key, value in network.state_dict().items()}
            for name, network in (("policy", self.policy), ("critic", self.critic))
        }

    def _restore(self, weights: dict[str, dict[str, Tensor]]) -> None:
        self.policy.load_state_dict(weights["policy"])
        self.critic.load_state_dict(weights["critic"])

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs."""
        return {
            **self._weights(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "leash_weight": self.leash.weight,
            "best_weights": self._best,
            "standing": self.standing.state_dict(),
            "kept": self.cloning.state_dict(),
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._restore(values)
        if self.reference is not None:
            self.reference.load_state_dict(values["reference"])
        self.actor_optimizer.load_state_dict(values["actor_optimizer"])
        self.critic_optimizer.load_state_dict(values["critic_optimizer"])
        self.leash.weight = values["leash_weight"]
        self._best = values["best_weights"]
        self.standing.load_state_dict(values["standing"])
        self.cloning.load_state_dict(values["kept"])


def _freeze(policy: SequencePolicy, names: tuple[str, ...]) -> None:
    """Let the named groups of state-space parameters keep their values."""
    for name, parameters in ssm_parameters(policy).items():
        if name in names:
            for parameter in parameters:
                parameter.requires_grad_(False)


def _mixed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def _explained(value: Tensor, target: Tensor) -> float:
    """Return the share of the targets' variance that the values explain."""
    return float(1.0 - (target - value).var() / target.var().clamp(min=1e-12))
