"""Multi-agent PPO through the agents' chain (`algorithm=mappo`; Yu et al. 2022).

The objective is the joint chain's: every agent's action has its own ratio, and messages are
recomputed with the current weights, so that gradients of an agent's ratio reach its predecessors.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mads4.algorithms.base import (
    ALGORITHMS,
    Algorithm,
    AlgorithmSettings,
    Context,
    Phase,
    SSMParameter,
)
from mads4.algorithms.elite_buffer import EliteBuffer
from mads4.algorithms.losses import (
    clipped_surrogate,
    clipped_value_loss,
    entropy,
    kl_divergence,
    log_probabilities,
    masked_mean,
)
from mads4.algorithms.rollout_buffer import Episodes, Experience, assess
from mads4.models import SequencePolicy
from mads4.models.base import unroll
from mads4.models.critic import Critic
from mads4.settings import NotNegative, Positive, Rate, Share, Weight
from mads4.types import SequenceBatch

Weights = dict[str, dict[str, Tensor]]

KL_TOLERANCE = 1.5
"""Factor by which the KL divergence may miss its target before the coefficient is changed."""
KL_STEP = 1.5
"""Factor by which the coefficient is changed."""
KL_COEF_BOUNDS = (1e-4, 1e3)


@ALGORITHMS.register("mappo")
class MAPPOConfig(AlgorithmSettings):
    """Multi-agent PPO through the agents' chain."""

    phase: ClassVar[Phase] = "online"
    name: Literal["mappo"] = "mappo"
    """Algorithm."""
    actor_learning_rate: Rate = 1e-5
    """Learning rate of the policy."""
    critic_learning_rate: Rate = 1e-4
    """Learning rate of the critic."""
    critic_width: Positive = 128
    """Width of the critic, in features."""
    critic_warmup: NotNegative = 10
    """Iterations at the start in which only the critic is updated."""
    freeze: Annotated[tuple[SSMParameter, ...], Field(strict=False)] = ("A", "dt")
    """State-space parameters that keep their values."""
    bptt_length: Positive | None = 100
    """Time steps of backpropagation through time, from a stored state; null for whole episodes."""
    unroll_mode: Literal["convolutional", "recurrent"] = "convolutional"
    """View in which segments are differentiated; same gradients, the first is faster."""
    batch_size: Positive = 64
    """Segments per optimizer step."""
    epochs: Positive = 4
    """Passes over an iteration's segments."""
    gamma: Share = 0.99
    """Discount per step."""
    gae_lambda: Share = 0.95
    """λ of generalized advantage estimation."""
    clip_range: Rate = 0.2
    """PPO clip range."""
    clip_range_vf: Rate | None = 0.2
    """Clip range of the value function, in standard deviations of the returns; null for none."""
    ent_coef: Weight = 0.001
    """Entropy coefficient."""
    max_grad_norm: Rate = 1.0
    """Gradient norm, of policy and critic each, above which gradients are clipped."""
    target_kl: Rate | None = 0.02
    """KL divergence from the policy that played at which an iteration's epochs stop, in nats."""
    kl_coef: Weight = 0.1
    """Initial coefficient of the KL penalty to the pretrained policy; 0 for none."""
    kl_target: Rate = 0.1
    """KL divergence to the pretrained policy that the coefficient is adapted to, in nats."""
    bc_coef: Weight = 0.0
    """Coefficient of behavior cloning on the data set and on elite episodes."""
    bc_batch_size: Positive = 8
    """Trajectories per optimizer step for behavior cloning."""
    elite_buffer_size: NotNegative = 0
    """Best own episodes that are kept for behavior cloning, with the returns they achieved."""

    def build(self, policy: SequencePolicy, context: Context) -> MAPPO:
        """Return the algorithm, which trains `policy`."""
        return MAPPO(policy, self, context)

    def problems(self, where: str, steps: int) -> list[str]:
        """Return a line if elite episodes are kept but not learned from."""
        if self.elite_buffer_size == 0 or self.bc_coef > 0.0:
            return []
        return [
            f"{where}.elite_buffer_size: got {self.elite_buffer_size}, but {where}.bc_coef=0 makes "
            f"no use of it; set {where}.bc_coef"
        ]


class AdaptiveKLController:
    """Adapts a KL coefficient so that the divergence stays near its target (PPO, section 4).

    Args:
        coef: initial coefficient; 0 for none, for good.
        target: nats per agent-step.
    """

    def __init__(self, coef: float, target: float) -> None:
        self.coef = coef
        self.target = target

    def update(self, kl: float) -> None:
        """Raise the coefficient after a divergence well above the target, lower it well below."""
        if self.coef == 0.0:
            return
        if kl > self.target * KL_TOLERANCE:
            self.coef = min(self.coef * KL_STEP, KL_COEF_BOUNDS[1])
        elif kl < self.target / KL_TOLERANCE:
            self.coef = max(self.coef / KL_STEP, KL_COEF_BOUNDS[0])


class MAPPO(Algorithm):
    """Learns from episodes that its policy has played.

    Args:
        policy: pretrained or fresh, already on the device; it learns without dropout.
        settings: see `MAPPOConfig`.
        context: seed of the minibatches' order, device, data for cloning; a `pretrained` policy is
            kept near its present self by a KL penalty.
    """

    def __init__(self, policy: SequencePolicy, settings: MAPPOConfig, context: Context) -> None:
        self.buffer = EliteBuffer(
            policy.spec,
            context.data,
            settings.bc_batch_size,
            settings.elite_buffer_size,
            context.seed,
        )
        policy.eval()
        coef = settings.kl_coef if context.pretrained else 0.0
        self.kl_controller = AdaptiveKLController(coef, settings.kl_target)
        self.reference = copy.deepcopy(policy).requires_grad_(False) if coef else None
        self.critic = Critic(
            policy.spec,
            policy.latent_dim,
            width=settings.critic_width,
            normalization=policy.embedding.normalization,
        ).to(context.device)
        self.critic.embedding.set_normalization(dict(policy.embedding.named_buffers()))
        super().__init__(policy, context, settings.freeze)
        self.actor_optimizer = torch.optim.Adam(
            [p for p in policy.parameters() if p.requires_grad], settings.actor_learning_rate
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), settings.critic_learning_rate
        )
        self._config = settings

    def assess(self, episodes: Episodes, policy: SequencePolicy | None = None) -> Experience:
        """Return the experience of episodes played by `policy` (None: as it is now)."""
        config = self._config
        return assess(
            episodes,
            policy or self.policy,
            self.critic,
            self.reference,
            segment=config.bptt_length,
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
        draws = torch.Generator().manual_seed(_mixed(self.context.seed, step))
        for epoch in range(config.epochs):
            moved: list[Tensor] = []
            order = torch.randperm(len(experience), generator=draws)
            for number, rows in enumerate(torch.split(order, config.batch_size)):
                part = experience.select(rows.to(self.device))
                found = self.critic_step(part)
                if with_actor:
                    cloned = self.buffer.batch(step, epoch, number)
                    found |= self.actor_step(part, cloned)
                    moved.append(found["approx_kl"].detach())
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
                    counts[name] = counts.get(name, 0) + 1
            limit = config.target_kl
            if with_actor and limit is not None and float(torch.stack(moved).mean()) > limit:
                with_actor = False  # the critic goes on
        metrics = {name: float(total) / counts[name] for name, total in sums.items()}
        if "kl_to_pretrained" in metrics:
            self.kl_controller.update(metrics["kl_to_pretrained"])
            metrics["kl_coef"] = self.kl_controller.coef
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
            self._config.clip_range_vf,
            part.batch.mask,
        )
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(
            self.critic.parameters(), self._config.max_grad_norm, error_if_nonfinite=True
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
            "policy_loss": -clipped_surrogate(ratio, part.advantage, config.clip_range, mask),
            "entropy": entropy(logits, mask),
            "approx_kl": kl_divergence(part.logits, logits, mask),
            "clip_fraction": masked_mean(
                ((ratio - 1.0).abs() > config.clip_range).to(ratio.dtype), mask
            ),
        }
        loss = metrics["policy_loss"] - config.ent_coef * metrics["entropy"]
        if part.reference is not None:
            metrics["kl_to_pretrained"] = kl_divergence(logits, part.reference, mask)
            loss = loss + self.kl_controller.coef * metrics["kl_to_pretrained"]
        if cloned is not None:
            metrics["bc_loss"] = self.buffer.loss(self.policy, cloned.to(self.device))
            loss = loss + config.bc_coef * metrics["bc_loss"]
        self.actor_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        metrics["gradient_norm"] = nn.utils.clip_grad_norm_(
            self.policy.parameters(), config.max_grad_norm, error_if_nonfinite=True
        )
        self.actor_optimizer.step()
        return metrics

    def _logits(self, part: Experience) -> Tensor:
        """Return the present policy's logits (R, L, N, n_actions), in the chosen view."""
        if self._config.unroll_mode == "recurrent":
            return unroll(self.policy, part.batch, part.order, part.state)
        return self.policy.sequence(part.batch, order=part.order, state=part.state).logits

    def weights(self) -> Weights:
        """Return a copy of the networks' weights."""
        return {
            name: {key: value.clone() for key, value in network.state_dict().items()}
            for name, network in (("policy", self.policy), ("critic", self.critic))
        }

    def restore(self, weights: Weights) -> None:
        """Take earlier weights, and reset the optimizers."""
        self._set(weights)
        self.actor_optimizer.state.clear()
        self.critic_optimizer.state.clear()

    def _set(self, weights: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(weights["policy"])
        self.critic.load_state_dict(weights["critic"])

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimizers, KL coefficient and elite episodes."""
        return {
            **self.weights(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "kl_coef": self.kl_controller.coef,
            "elite": self.buffer.state_dict(),
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._set(values)
        if self.reference is not None:
            self.reference.load_state_dict(values["reference"])
        self.actor_optimizer.load_state_dict(values["actor_optimizer"])
        self.critic_optimizer.load_state_dict(values["critic_optimizer"])
        self.kl_controller.coef = values["kl_coef"]
        self.buffer.load_state_dict(values["elite"])


def _mixed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def _explained(value: Tensor, target: Tensor) -> float:
    """Return the share of the targets' variance that the values explain."""
    return float(1.0 - (target - value).var() / target.var().clamp(min=1e-12))
