"""Offline pretraining: supervised sequence modeling in S4's convolutional view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mads4.algorithms.losses import behavior_cloning
from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler, held_out_batches
from mads4.models import SequencePolicy
from mads4.nn.ssm import ssm_parameters
from mads4.training.prefetch import DeviceBatches
from mads4.training.state import TrainState
from mads4.training.tbptt import TruncatedBPTT

VALIDATION_BATCH = 16
"""Trajectories at once; only speed and memory depend on it."""


@dataclass(frozen=True)
class OfflineSettings:
    """The numbers of one optimization."""

    steps: int
    """Optimizer steps in all; the schedule ends there."""
    learning_rate: float
    ssm_learning_rate: Mapping[str, float | None]
    """Learning rates of the state-space parameters A, B, C, dt, D; if absent or None,
    `learning_rate`."""
    weight_decay: float
    warmup_steps: int
    schedule: str
    """``cosine`` (to zero) or ``constant``, after a linear warm-up."""
    grad_clip: float
    """Largest norm of the gradient."""


def schedule_factor(step: int, settings: OfflineSettings) -> float:
    """Return the factor on the learning rates at `step` (from 0)."""
    warmup = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.schedule == "constant":
        return warmup
    return warmup * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))


class OfflineTrainer:
    """One optimizer step, one validation, and all that a checkpoint must hold of them.

    Args:
        policy: the network, already on `device`.
        sampler: where training batches come from.
        held_out: episodes for the validation loss.
        settings: learning rates and the like.
        device: where batches go.
    """

    phase = "offline"
    validation_phase = "validation"

    def __init__(
        self,
        policy: SequencePolicy,
        sampler: SequenceSampler | ConsecutiveSampler,
        held_out: Dataset,
        settings: OfflineSettings,
        device: torch.device,
    ) -> None:
        self.policy = policy
        self.sampler = sampler
        self.held_out = held_out
        self.settings = settings
        self.device = device
        ahead = device.type == "cuda" or sampler.dataset.on_demand
        self._batches = DeviceBatches(sampler.batch, device, ahead=ahead, steps=settings.steps)
        self._carry = TruncatedBPTT(policy)
        self.optimizer = _optimizer(policy, settings)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def agent_steps(self, step: int) -> int:
        """Return how many decisions `step` batches hold (padding included)."""
        dataset = self.sampler.dataset
        steps = self.sampler.window or int(dataset.table.length.max())
        return step * self.sampler.batch_size * steps * dataset.spec.n_agents

    def update(self, step: int) -> dict[str, Tensor]:
        """Take optimizer step `step` (from 0) and return its metrics as 0-d tensors."""
        self.policy.train()
        factor = schedule_factor(step, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        batch = self._batches.batch(step)
        if isinstance(self.sampler, ConsecutiveSampler):
            logits = self._carry.logits(batch, self.sampler.begins(step))
        else:
            logits = self.policy(batch)
        loss, accuracy = behavior_cloning(logits, batch.action, batch.available_actions, batch.mask)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            self.policy.parameters(), self.settings.grad_clip, error_if_nonfinite=True
        )
        self.optimizer.step()
        return {"loss": loss.detach(), "accuracy": accuracy, "gradient_norm": norm}

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Return loss and accuracy on the held-out episodes; takes nothing from random streams."""
        self.policy.eval()
        loss_sum = accuracy_sum = steps = 0.0
        for cpu_batch in held_out_batches(self.held_out, VALIDATION_BATCH):
            batch = cpu_batch.to(self.device)
            loss, accuracy = behavior_cloning(
                self.policy(batch), batch.action, batch.available_actions, batch.mask
            )
            weight = float(batch.mask.sum())
            loss_sum += float(loss) * weight
            accuracy_sum += float(accuracy) * weight
            steps += weight
        return {"loss": loss_sum / steps, "accuracy": accuracy_sum / steps}

    def criterion(self, metrics: Mapping[str, float]) -> float:
        """Return the validation loss."""
        return metrics["loss"]

    def judged_policy(self) -> dict[str, Any]:
        """Return the weights as they are."""
        return self.policy.state_dict()

    def facts(self) -> dict[str, Any]:
        """Return nothing: the data's summary says all."""
        return {}

    def summary(self, state: TrainState) -> dict[str, Any]:
        """Return the validation loss that the best weights were chosen by."""
        return {"best_validation_loss": state.best_criterion}

    def progress(self, metrics: Mapping[str, float]) -> str:
        """Say what the losses are."""
        words = [f"loss {metrics['loss']:.3f}"] if "loss" in metrics else []
        if "validation/loss" in metrics:
            words.append(f"held out {metrics['validation/loss']:.3f}")
        return ", ".join(words)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer, and the memory that consecutive windows carry along."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "carry": self._carry.state_dict(),
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.policy.load_state_dict(values["policy"])
        self.optimizer.load_state_dict(values["optimizer"])
        self._carry.load_state_dict(values.get("carry", {}))


def _optimizer(policy: SequencePolicy, settings: OfflineSettings) -> torch.optim.AdamW:
    """AdamW; state-space parameters learn at rates of their own, the dynamics are not decayed."""
    ssm = ssm_parameters(policy)
    known = {id(parameter) for group in ssm.values() for parameter in group}
    others = [p for p in policy.parameters() if id(p) not in known]
    matrices, vectors = [p for p in others if p.ndim > 1], [p for p in others if p.ndim <= 1]
    decay = settings.weight_decay
    groups: list[tuple[list[nn.Parameter], float | None, float]]
    groups = [(matrices, None, decay), (vectors, None, 0.0)]
    for name, parameters in ssm.items():
        groups.append((parameters, settings.ssm_learning_rate.get(name), decay * (name == "C")))
    return torch.optim.AdamW(
        [
            {
                "params": [p for p in parameters if p.requires_grad],
                "lr": settings.learning_rate if rate is None else rate,
                "weight_decay": weight_decay,
            }
            for parameters, rate, weight_decay in groups
        ],
        fused=True,
    )
