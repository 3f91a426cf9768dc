"""Multi-agent PPO on segments of played episodes: the networks, their losses and optimizers.

The objective is the joint chain's: every agent's action has a ratio of its own, and messages are
written anew with the present weights, so that gradients of an agent's ratio reach its predecessors.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mads4.algorithms.kl_controller import AdaptiveKLController
from mads4.algorithms.ppo import (
    clipped_objective,
    clipped_value_loss,
    divergence,
    entropy,
    log_probabilities,
    masked_mean,
)
from mads4.config import OnlineTrainerConfig
from mads4.models import SequencePolicy
from mads4.models.base import unroll
from mads4.models.critic import Critic
from mads4.nn.ssm import ssm_parameters
from mads4.training.cloning import Cloning
from mads4.training.rollout_buffer import Episodes, Experience, assess
from mads4.types import SequenceBatch

Weights = dict[str, dict[str, Tensor]]


class Mappo:
    """Learns from episodes that its policy has played (Yu et al. 2022).

    Args:
        policy: pretrained or fresh, already on `device`; it learns without dropout.
        pretrained: keep the policy on a leash to what it is now.
        cloning: what behavior cloning is mixed in from.
        config: all the numbers.
        seed: of the order of minibatches.
        device: where tensors live.
    """

    def __init__(
        self,
        policy: SequencePolicy,
        *,
        pretrained: bool,
        cloning: Cloning,
        config: OnlineTrainerConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.policy = policy.eval()
        self.cloning = cloning
        self.leash = AdaptiveKLController(
            config.leash_weight if pretrained else 0.0, config.leash_divergence
        )
        self.reference = copy.deepcopy(policy).requires_grad_(False) if self.leash.weight else None
        self.critic = Critic(
            policy.spec,
            policy.latent_dim,
            width=config.critic_width,
            normalization=policy.embedding.normalization,
        ).to(device)
        self.critic.embedding.set_normalization(dict(policy.embedding.named_buffers()))
        _freeze(policy, config.freeze)
        self.actor_optimizer = torch.optim.Adam(
            [p for p in policy.parameters() if p.requires_grad], config.actor_learning_rate
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), config.critic_learning_rate
        )
        self._config, self._seed, self._device = config, seed, device

    def assess(self, episodes: Episodes, policy: SequencePolicy | None = None) -> Experience:
        """Return episodes played by `policy`, None for the present one, as learning needs them."""
        config = self._config
        return assess(
            episodes,
            policy or self.policy,
            self.critic,
            self.reference,
            segment=config.segment,
            gamma=config.gamma,
            lam=config.gae_lambda,
        )

    def learn(self, experience: Experience, step: int) -> dict[str, float]:
        """Take an iteration's optimizer steps; return their mean metrics."""
        config = self._config
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        self.critic.value.update(experience.value_target[experience.batch.mask])
        with_actor = step >= config.critic_warmup
        draws = torch.Generator().manual_seed(_mixed(self._seed, step))
        for epoch in range(config.epochs):
            moved: list[Tensor] = []
            order = torch.randperm(len(experience), generator=draws)
            for number, rows in enumerate(torch.split(order, config.batch_size)):
                part = experience.select(rows.to(self._device))
                found = self.critic_step(part)
                if with_actor:
                    cloned = self.cloning.batch(step, epoch, number)
                    found |= self.actor_step(part, cloned)
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

    def critic_step(self, part: Experience) -> dict[str, Tensor]:
        """Take the critic's optimizer step on some segments; return its metrics."""
        head = self.critic.value
        loss = clipped_value_loss(
            self.critic(part.batch, part.latent),
            head.normalize(part.value),
            head.normalize(part.value_target),
            self._config.value_clip,
            part.batch.mask,
        )
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(
            self.critic.parameters(), self._config.grad_clip, error_if_nonfinite=True
        )
        self.critic_optimizer.step()
        return {"value_loss": loss}

    def actor_step(self, part: Experience, cloned: SequenceBatch | None) -> dict[str, Tensor]:
        """Take the policy's optimizer step on some segments; return its metrics."""
        config, mask = self._config, part.batch.mask
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
            metrics["cloning_loss"] = self.cloning.loss(self.policy, cloned.to(self._device))
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
        if self._config.gradients == "recurrent":
            return unroll(self.policy, part.batch, part.order, part.state)
        return self.policy.sequence(part.batch, order=part.order, state=part.state).logits

    def weights(self) -> Weights:
        """Return a copy of the networks' weights."""
        return {
            name: {key: value.clone() for key, value in network.state_dict().items()}
            for name, network in (("policy", self.policy), ("critic", self.critic))
        }

    def go_back(self, weights: Weights) -> None:
        """Take earlier weights, and forget where the optimizers were heading."""
        self._set(weights)
        self.actor_optimizer.state.clear()
        self.critic_optimizer.state.clear()

    def _set(self, weights: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(weights["policy"])
        self.critic.load_state_dict(weights["critic"])

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimizers and leash."""
        return {
            **self.weights(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "leash_weight": self.leash.weight,
            "kept": self.cloning.state_dict(),
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._set(values)
        if self.reference is not None:
            self.reference.load_state_dict(values["reference"])
        self.actor_optimizer.load_state_dict(values["actor_optimizer"])
        self.critic_optimizer.load_state_dict(values["critic_optimizer"])
        self.leash.weight = values["leash_weight"]
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
