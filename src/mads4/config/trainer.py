"""Training: the group `trainer`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from mads4.config.fields import NotNegative, Positive, Rate, Section
from mads4.config.online import OnlineTrainerConfig


class SSMLearningRates(Section):
    """Peak learning rate of each state-space parameter; null takes the network's."""

    A: Rate | None = 1e-3
    """Of the state matrix (with its low-rank part)."""
    B: Rate | None = 1e-3
    """Of the input vector."""
    C: Rate | None = None
    """Of the output vector."""
    dt: Rate | None = 1e-3
    """Of the step size."""
    D: Rate | None = None
    """Of the feedthrough."""


class OfflineTrainerConfig(Section):
    """Offline training by supervised sequence modeling."""

    name: Literal["offline"] = "offline"
    """Kind of training."""
    steps: Positive = 5000
    """Optimizer steps in all."""
    batch_size: Positive = 16
    """Trajectories (or windows) per step."""
    window: Positive | None = None
    """Time steps of a window of the trajectory; null for whole trajectories."""
    windows: Literal["random", "consecutive"] = "random"
    """Anywhere, with no memory of what was before; or one after another, memory carried along."""
    sampling: Literal["uniform", "length", "return"] = "uniform"
    """How often trajectories come: all alike, or in proportion to their length or return."""
    return_temperature: Rate | None = None
    """Sampling by return: e-fold preference per this share of the returns' range; null: linear."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
    ssm_learning_rate: SSMLearningRates = SSMLearningRates()
    """Peak learning rates of the state-space parameters."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay; not applied to A, B and dt."""
    warmup_steps: NotNegative = 200
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    grad_clip: Rate = 1.0
    """Largest norm of the gradient."""
    validation_interval: Positive = 500
    """Steps between two validations; the best checkpoint is chosen there."""
    checkpoint_interval: Positive = 500
    """Steps between two saves of `last.pt`: what a crash may cost."""
    keep_every: Positive | None = None
    """Steps between checkpoints that are kept for good; null keeps last and best only."""
    log_interval: Positive = 50
    """Steps between two lines of metrics."""


class OfflineOnlineTrainerConfig(Section):
    """Offline training, then online training of what came of it, in one run."""

    name: Literal["offline_online"] = "offline_online"
    """Kind of training."""
    offline: OfflineTrainerConfig = OfflineTrainerConfig()
    """The first part."""
    online: OnlineTrainerConfig = OnlineTrainerConfig()
    """The second part."""


TrainerConfig: TypeAlias = Annotated[
    OfflineTrainerConfig | OnlineTrainerConfig | OfflineOnlineTrainerConfig,
    Field(discriminator="name"),
]
