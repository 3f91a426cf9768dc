"""Implicit constraint Q-learning for teams (`algorithm=icq`; Yang et al. 2021, arXiv 2106.03400).

Advantage-weighted cloning with a centralized critic. The critic learns Q_tot = Σ_i k_i(s) Q_i by
TD(λ) on recorded actions only; the policy clones these actions with softmax weights of its agents'
advantages, so that nothing is ever maximized outside the data. Differences from the published code:
AdamW instead of RMSprop; one critic step per policy step; the softmax runs over real steps only;
unavailable actions are masked before it; no ε-floor under the policy; the ends of windows and
truncated episodes bootstrap from what followed them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mads4.algorithms.base import ALGORITHMS, Context, OfflineAlgorithm, OfflineSettings
from mads4.algorithms.losses import batch_softmax, chosen, log_probabilities, masked_mean, td_lambda
from mads4.models import SequencePolicy
from mads4.models.base import PolicySequence
from mads4.models.critic import ActionValues, NormalizedMixing
from mads4.settings import Positive, Rate, Share
from mads4.types import EnvSpec, SequenceBatch


@ALGORITHMS.register("icq")
class ICQConfig(OfflineSettings):
    """ICQ: advantage-weighted cloning with a centralized critic."""

    name: Literal["icq"] = "icq"
    """Algorithm."""
    learning_rate: Rate = 5e-4
    """Peak learning rate of the policy."""
    critic_learning_rate: Rate = 1e-4
    """Peak learning rate of critic and mixing network."""
    critic_width: Positive = 256
    """Width of the critic, in features."""
    gamma: Share = 0.99
    """Discount per step."""
    td_lambda: Share = 0.8
    """λ of the critic's TD(λ) targets."""
    advantage_temperature: Rate = 0.1
    """β of the policy's softmax weights, in the reward's units."""
    value_temperature: Rate = 1000.0
    """β of the weights on the critic's target values."""
    target_update_interval: Positive = 600
    """Optimizer steps between hard copies to the target networks."""

    def build(self, policy: SequencePolicy, context: Context) -> ICQ:
        """Return the algorithm, which trains `policy`."""
        return ICQ(policy, self, context)


class ICQ(OfflineAlgorithm):
    """Networks beside the policy: ``critic`` (Q_i) and ``mixing`` (k_i), each with a target."""

    settings: ICQConfig
    selects_by_validation_loss = False
    bootstrap = True

    def __init__(self, policy: SequencePolicy, settings: ICQConfig, context: Context) -> None:
        super().__init__(policy, settings, context)
        statistics = dict(policy.embedding.named_buffers())
        for critic in (self.beside["critic"], self.lagged["critic"].module):
            critic.embedding.set_normalization(statistics)  # type: ignore[union-attr,operator]

    def networks(self, spec: EnvSpec) -> dict[str, nn.Module]:
        """Return critic and mixing network."""
        normalization = self.policy.embedding.normalization
        width = self.settings.critic_width
        return {
            "critic": ActionValues(spec, width=width, normalization=normalization),
            "mixing": NormalizedMixing(spec),
        }

    def target_intervals(self) -> dict[str, int]:
        """Return the interval of hard copies, for both networks."""
        return dict.fromkeys(("critic", "mixing"), self.settings.target_update_interval)

    def learning_rates(self) -> dict[str, float]:
        """Return the critic's rate, for both networks."""
        return dict.fromkeys(("critic", "mixing"), self.settings.critic_learning_rate)

    def losses(self, batch: SequenceBatch, output: PolicySequence) -> dict[str, Tensor]:
        """Return ``loss`` (the policy's), ``critic_loss``, ``effective_samples`` and ``q_mean``."""
        settings, mask = self.settings, batch.mask
        state = self.policy.embedding.normalized_state(batch.state)
        critic, mixing = self.beside["critic"], self.beside["mixing"]
        values = critic(batch)
        taken = chosen(values, batch.action)
        q_tot, share = mixing(taken, state)
        with torch.no_grad():
            target, valid = td_lambda(
                batch.reward,
                self._target_values(batch, state, output.logits),
                batch.terminated,
                batch.follows,
                mask,
                settings.gamma,
                settings.td_lambda,
            )
            advantage = taken - expected(values, output.logits)
            possible = chosen(batch.available_actions, batch.action)
            real = mask.unsqueeze(-1) & possible
            weight = batch_softmax(advantage, settings.advantage_temperature, real) * share
            spread = weight[real].sum().square() / weight[real].square().sum()
        error = torch.where(valid, q_tot - target, 0.0)
        log_p = torch.where(real, log_probabilities(output.logits, batch.action), 0.0)
        return {
            "loss": -(weight * log_p).sum() / real.sum().clamp(min=1),
            "critic_loss": error.square().sum() / valid.sum().clamp(min=1),
            "effective_samples": spread / real.sum(),
            "q_mean": masked_mean(q_tot.detach().unsqueeze(-1), mask),
        }

    def _target_values(self, batch: SequenceBatch, state: Tensor, logits: Tensor) -> Tensor:
        """Return what the target networks say of each row, (B, T).

        On real steps Q_tot of the recorded actions, times the softmax weights that turn an average
        over the data into one over the policy. In bootstrap rows, which have no weight (and no
        action at an episode's end), that average itself: Σ_i k_i(s) Σ_a π_i(a) Q_i(a).
        """
        values, mixing = self.lagged["critic"].module(batch), self.lagged["mixing"].module
        taken, _ = mixing(chosen(values, batch.action), state)
        mean, _ = mixing(expected(values, logits), state)
        weight = batch_softmax(taken, self.settings.value_temperature, batch.mask)
        return torch.where(batch.mask, taken * weight, mean)


def expected(values: Tensor, logits: Tensor) -> Tensor:
    """Return Σ_a π(a) Q(a), (B, T, N), over the actions that are available (logits not -inf)."""
    probability = logits.softmax(-1)
    return (probability * torch.where(logits.isfinite(), values, 0.0)).sum(-1)
