"""The offline phase: an algorithm, the batches it learns from, and its held-out losses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from mads4.algorithms.base import OfflineAlgorithm
from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler, held_out_batches
from mads4.models import SequencePolicy
from mads4.models.base import PolicySequence
from mads4.training.checkpoint import TrainState
from mads4.training.prefetch import DeviceBatches
from mads4.training.tbptt import TruncatedBPTT
from mads4.types import SequenceBatch

VALIDATION_BATCH = 16
"""Trajectories at once; only speed and memory depend on it."""

Select = Literal["validation_loss", "last"]


class OfflineTrainer:
    """One optimizer step, one validation, and all that a checkpoint must hold of them.

    Args:
        algorithm: what learns; its policy is on the device.
        sampler: where training batches come from.
        held_out: episodes for the validation losses.
        select: checkpoint that is the best: with the lowest validation loss, or the last.
    """

    phase = "offline"
    validation_phase = "validation"

    def __init__(
        self,
        algorithm: OfflineAlgorithm,
        sampler: SequenceSampler | ConsecutiveSampler,
        held_out: Dataset,
        select: Select = "validation_loss",
    ) -> None:
        self.algorithm = algorithm
        self.sampler = sampler
        self.held_out = held_out
        self.select = select
        self.device = algorithm.device
        ahead = self.device.type == "cuda" or sampler.dataset.on_demand
        steps = algorithm.context.steps
        draw = partial(sampler.batch, bootstrap=algorithm.bootstrap)
        self._batches = DeviceBatches(draw, self.device, ahead=ahead, steps=steps)
        self._tbptt = TruncatedBPTT(algorithm.policy)
        self._step = 0

    @property
    def policy(self) -> SequencePolicy:
        """The policy that is trained."""
        return self.algorithm.policy

    def agent_steps(self, step: int) -> int:
        """Return how many decisions `step` batches hold (padding included)."""
        dataset = self.sampler.dataset
        steps = self.sampler.window or int(dataset.table.length.max())
        return step * self.sampler.batch_size * steps * dataset.spec.n_agents

    def update(self, step: int) -> dict[str, Tensor]:
        """Take optimizer step `step` (from 0) and return its metrics as 0-d tensors."""
        self.policy.train()
        self.algorithm.beside.train()
        batch = self._batches.batch(step)
        self._step = step + 1
        return self.algorithm.update(batch, self._output(batch, step), step)

    def _output(self, batch: SequenceBatch, step: int) -> PolicySequence:
        """Run the policy over a batch: from the zero state, or on from the windows before."""
        if isinstance(self.sampler, ConsecutiveSampler):
            begins = self.sampler.begins(step)
            return self._tbptt.sequence(batch, begins, self.algorithm.bootstrap)
        order, dropped = self.policy.draw(batch.action)
        return self.policy.sequence(batch, order=order, dropped=dropped)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Return the losses on the held-out episodes; takes nothing from random streams."""
        self.policy.eval()
        self.algorithm.beside.eval()
        sums: dict[str, float] = {}
        steps = 0.0
        bootstrap = self.algorithm.bootstrap
        for cpu_batch in held_out_batches(self.held_out, VALIDATION_BATCH, bootstrap):
            batch = cpu_batch.to(self.device)
            weight = float(batch.mask.sum())
            found = self.algorithm.losses(batch, self.policy.sequence(batch))
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value) * weight
            steps += weight
        return {name: total / steps for name, total in sums.items()}

    def criterion(self, metrics: Mapping[str, float]) -> float:
        """Return what the best checkpoint minimizes: the validation loss, or minus the step."""
        return metrics["loss"] if self.select == "validation_loss" else -float(self._step)

    def validated_policy(self) -> dict[str, Any]:
        """Return the weights as they are."""
        return self.policy.state_dict()

    def facts(self) -> dict[str, Any]:
        """Return nothing: the data's summary has it all."""
        return {}

    def summary(self, state: TrainState) -> dict[str, Any]:
        """Return what the best weights were chosen by."""
        if self.select == "last":
            return {"best_chosen_by": "last step"}
        return {"best_validation_loss": state.best_criterion}

    def progress(self, metrics: Mapping[str, float]) -> str:
        """Return the latest losses in words."""
        words = [f"loss {metrics['loss']:.3f}"] if "loss" in metrics else []
        if "validation/loss" in metrics:
            words.append(f"held out {metrics['validation/loss']:.3f}")
        return ", ".join(words)

    def state_dict(self) -> dict[str, Any]:
        """Return the algorithm's state, and the recurrent state between stateful windows."""
        return {**self.algorithm.state_dict(), "carry": self._tbptt.state_dict()}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.algorithm.load_state_dict(values)
        self._tbptt.load_state_dict(values.get("carry", {}))
