"""What all algorithms share: the networks they own, their optimizers, and how they are saved.

An offline algorithm is one file: a schema (`OfflineSettings`) registered under the module's name,
and a subclass of `OfflineAlgorithm` that overrides `networks` (what is trained beside the policy)
and `losses` (a pure function of a batch and the networks). Everything else is here.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mads4.data.dataset import Dataset
from mads4.errors import UserError
from mads4.models import SequencePolicy
from mads4.models.base import PolicySequence
from mads4.nn.ssm import ssm_parameters
from mads4.settings import (
    CUSTOM,
    Factory,
    NotNegative,
    Rate,
    Registry,
    Settings,
    Weight,
    call_factory,
)
from mads4.types import EnvSpec, SequenceBatch

Phase = Literal["offline", "online"]
SSMParameter = Literal["A", "B", "C", "dt", "D"]


@dataclass(frozen=True)
class Context:
    """What an algorithm is built for, besides its settings."""

    seed: int
    """Of the run."""
    device: torch.device
    steps: int
    """Optimizer steps (offline) or iterations (online) in all."""
    pretrained: bool = False
    """Whether the policy comes from a checkpoint."""
    data: Dataset | None = None
    """Recorded episodes, for online algorithms that also imitate; None for none."""


class AlgorithmSettings(Settings, ABC):
    """Base of the schemas in the group ``algorithm``."""

    name: str
    """Algorithm."""
    phase: ClassVar[Phase]
    """Whether it learns from recorded data or from its own episodes."""

    @abstractmethod
    def build(self, policy: SequencePolicy, context: Context) -> Algorithm:
        """Return the algorithm, which trains `policy`, already on the device."""

    def problems(self, where: str, steps: int) -> list[str]:
        """Return one line for each combination of settings that cannot work.

        Args:
            where: key of these settings, for example ``algorithm``.
            steps: optimizer steps of the training.
        """
        return []


ALGORITHMS: Registry[AlgorithmSettings] = Registry("algorithm", "mads4.algorithms")
"""The group ``algorithm``."""


class Algorithm(ABC):
    """A learning rule: the policy, the networks beside it, and how they are updated.

    Args:
        policy: on the device.
        context: see `Context`.
        freeze: groups of state-space parameters that keep their values.
    """

    def __init__(
        self, policy: SequencePolicy, context: Context, freeze: Iterable[str] = ()
    ) -> None:
        self.policy = policy
        self.context = context
        self.device = context.device
        for name, parameters in ssm_parameters(policy).items():
            for parameter in parameters if name in freeze else ():
                parameter.requires_grad_(False)

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs, the weights as ``policy`` among it."""

    @abstractmethod
    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class SSMLearningRates(Settings):
    """Peak learning rate of each state-space parameter; null takes the network's."""

    A: Rate | None = 1e-3
    """State matrix (with its low-rank part)."""
    B: Rate | None = 1e-3
    """Input vector."""
    C: Rate | None = None
    """Output vector."""
    dt: Rate | None = 1e-3
    """Step size."""
    D: Rate | None = None
    """Feedthrough."""


class OfflineSettings(AlgorithmSettings):
    """Settings that all offline algorithms share: AdamW, warm-up and decay of the learning rate."""

    phase: ClassVar[Phase] = "offline"
    learning_rate: Rate = 1e-3
    """Peak learning rate of the policy."""
    ssm_learning_rate: SSMLearningRates = SSMLearningRates()
    """Peak learning rates of the state-space parameters."""
    weight_decay: Weight = 0.01
    """AdamW's weight decay; not applied to A, B and dt."""
    warmup_steps: NotNegative = 200
    """Optimizer steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    max_grad_norm: Rate = 1.0
    """Gradient norm, per network, above which gradients are clipped."""
    freeze: Annotated[tuple[SSMParameter, ...], Field(strict=False)] = ()
    """State-space parameters that keep their initial values."""

    def problems(self, where: str, steps: int) -> list[str]:
        """Return a line if the warm-up is longer than the training."""
        if self.warmup_steps <= steps:
            return []
        return [f"{where}.warmup_steps: got {self.warmup_steps}, more than trainer.steps {steps}"]


class OfflineAlgorithm(Algorithm):
    """An algorithm that learns from recorded sequences.

    Subclasses override `losses`, and `networks` if they own more than the policy.

    Args:
        policy: on the device.
        settings: see `OfflineSettings`.
        context: see `Context`.
    """

    settings: OfflineSettings
    selects_by_validation_loss: ClassVar[bool] = True
    """Whether a lower held-out ``loss`` means a better policy; critics' losses say nothing."""
    bootstrap: ClassVar[bool] = False
    """Whether batches have a bootstrap row, for critics; see `mads4.data.collate.gather`."""

    def __init__(self, policy: SequencePolicy, settings: OfflineSettings, context: Context) -> None:
        super().__init__(policy, context, settings.freeze)
        self.settings = settings
        self.beside = nn.ModuleDict(self.networks(policy.spec)).to(context.device)
        """The networks that are trained beside the policy."""
        self.lagged: dict[str, Lagged] = {
            name: Lagged(self.beside[name], every)
            for name, every in self.target_intervals().items()
        }
        """Target copies by the name of their network."""
        self.optimizer = self._make_optimizer()
        self._peak_rates = [group["lr"] for group in self.optimizer.param_groups]

    def networks(self, spec: EnvSpec) -> dict[str, nn.Module]:
        """Return the networks that are trained beside the policy, by name; none by default."""
        return {}

    def target_intervals(self) -> dict[str, int]:
        """Return which of `networks` have a target copy, and the optimizer steps between copies."""
        return {}

    def learning_rates(self) -> dict[str, float]:
        """Return the peak learning rates of `networks`; the policy's where absent."""
        return {}

    @abstractmethod
    def losses(self, batch: SequenceBatch, output: PolicySequence) -> dict[str, Tensor]:
        """Return scalars by name: the sum of those with a gradient is minimized, all are logged.

        Args:
            batch: (B, T, …) recorded sequences.
            output: the policy's logits and latents for them.
        """

    def update(self, batch: SequenceBatch, output: PolicySequence, step: int) -> dict[str, Tensor]:
        """Take optimizer step `step` (from 0); return losses and gradient norms, detached."""
        factor = schedule_factor(step, self.context.steps, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = rate * factor
        found = self.losses(batch, output)
        self.optimizer.zero_grad(set_to_none=True)
        total = reduce(add, (value for value in found.values() if value.requires_grad))
        total.backward()  # type: ignore[no-untyped-call]
        limit = self.settings.max_grad_norm
        norms = {
            f"{prefix}gradient_norm": nn.utils.clip_grad_norm_(
                network.parameters(), limit, error_if_nonfinite=True
            )
            for prefix, network in self._named_networks()
        }
        self.optimizer.step()
        for lagged in self.lagged.values():
            lagged.update(step)
        return {name: value.detach() for name, value in (found | norms).items()}

    def _named_networks(self) -> list[tuple[str, nn.Module]]:
        """Return the policy and the networks beside it, with prefixes for their metrics."""
        return [("", self.policy), *((f"{name}_", one) for name, one in self.beside.items())]

    def state_dict(self) -> dict[str, Any]:
        """Return networks, targets and optimizer."""
        values = {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}
        if len(self.beside):
            values["networks"] = self.beside.state_dict()
            values["targets"] = {k: v.module.state_dict() for k, v in self.lagged.items()}
        return values

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.policy.load_state_dict(values["policy"])
        self.optimizer.load_state_dict(values["optimizer"])
        if len(self.beside):
            self.beside.load_state_dict(values["networks"])
            for name, lagged in self.lagged.items():
                lagged.module.load_state_dict(values["targets"][name])

    def _make_optimizer(self) -> torch.optim.AdamW:
        """AdamW; state-space parameters have their own rates, the dynamics are not decayed."""
        settings, rates = self.settings, self.learning_rates()
        decay, ssm = settings.weight_decay, ssm_parameters(self.policy)
        known = {id(parameter) for group in ssm.values() for parameter in group}
        others = [p for p in self.policy.parameters() if id(p) not in known]
        matrices, vectors = [p for p in others if p.ndim > 1], [p for p in others if p.ndim <= 1]
        groups: list[tuple[list[nn.Parameter], float | None, float]]
        groups = [(matrices, None, decay), (vectors, None, 0.0)]
        for name, parameters in ssm.items():
            rate: float | None = getattr(settings.ssm_learning_rate, name)
            groups.append((parameters, rate, decay * (name == "C")))
        for name, network in self.beside.items():
            groups.append((list(network.parameters()), rates.get(name), 0.0))
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


class Lagged:
    """A target network: a copy without gradients, renewed every so many optimizer steps.

    Args:
        source: the network that learns.
        every: optimizer steps between two copies.
        rate: share of the source that a copy takes over: 1 for hard copies, less for averages.
    """

    def __init__(self, source: nn.Module, every: int = 1, rate: float = 1.0) -> None:
        self.module = copy.deepcopy(source).requires_grad_(False)
        self._source, self._every, self._rate = source, every, rate

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Renew the copy if it is due after optimizer step `step` (from 0)."""
        if (step + 1) % self._every == 0:
            sources = self._source.state_dict()
            for name, mine in self.module.state_dict().items():
                theirs = sources[name]
                if mine.is_floating_point() and self._rate < 1.0:
                    mine.lerp_(theirs, self._rate)
                else:
                    mine.copy_(theirs)


def schedule_factor(step: int, steps: int, settings: OfflineSettings) -> float:
    """Return the factor on the learning rates at `step` (from 0) of `steps`."""
    warmup = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.schedule == "constant":
        return warmup
    return warmup * 0.5 * (1.0 + math.cos(math.pi * step / steps))


@ALGORITHMS.register(CUSTOM)
class CustomAlgorithm(AlgorithmSettings):
    """An algorithm of the user's own."""

    name: Literal["custom"] = "custom"
    """Algorithm."""
    phase: ClassVar[Phase] = "offline"
    factory: Factory
    """`package.module:function`; called with policy, context and the options, returns an
    `mads4.algorithms.base.Algorithm`."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    factory_arguments: ClassVar[int] = 2
    """Number of positional arguments that the factory is given."""

    def build(self, policy: SequencePolicy, context: Context) -> Algorithm:
        """Return what the factory makes.

        Raises:
            UserError: it cannot be imported, refuses the options, or returns something else.
        """
        made = call_factory("algorithm", self.factory, policy, context, **self.options)
        if not isinstance(made, Algorithm):
            raise UserError(
                f"algorithm.factory: {self.factory} returns a {type(made).__name__}, expected a "
                "mads4.algorithms.base.Algorithm."
            )
        return made
