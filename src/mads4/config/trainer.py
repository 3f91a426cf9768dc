"""Training: the group `trainer` says which phases run, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mads4.settings import NotNegative, Positive, Rate, Registry, Settings, Share


class TrainerSettings(Settings):
    """Base of the schemas in the group ``trainer``."""

    name: str
    """Phases of the training."""

    def problems(self, where: str) -> list[str]:
        """Return one line for each combination of settings that cannot work."""
        return []


TRAINERS: Registry[TrainerSettings] = Registry("trainer", "mads4.config.trainer")
"""The group ``trainer``."""


@TRAINERS.register("offline")
class OfflineTrainerConfig(TrainerSettings):
    """Offline training on recorded sequences."""

    name: Literal["offline"] = "offline"
    """Phases of the training."""
    steps: Positive = 5000
    """Optimizer steps in all."""
    batch_size: Positive = 16
    """Trajectories (or windows) per step."""
    context_length: Positive | None = None
    """Time steps of a window of the trajectory; null for whole trajectories."""
    stateful: bool = False
    """Take the windows of an episode one after another, with the recurrent state carried over."""
    sampling: Literal["uniform", "length", "return"] = "uniform"
    """Weights of trajectories: equal, or in proportion to their length or return."""
    return_temperature: Rate | None = None
    """Sampling by return: e-fold preference per this share of the returns' range; null: linear."""
    select: Literal["validation_loss", "last"] | None = None
    """Best checkpoint: lowest validation loss or last step; null for the algorithm's default."""
    validation_interval: Positive = 500
    """Steps between two validations."""
    eval_interval: Positive | None = None
    """Steps between evaluations in the environment, logged but never used to choose; null: none."""
    eval_episodes: Positive = 8
    """Episodes of each of these evaluations."""
    checkpoint_interval: Positive = 500
    """Steps between two saves of `last.pt`: what a crash may cost."""
    save_interval: Positive | None = None
    """Steps between checkpoints that are kept for good; null keeps last and best only."""
    log_interval: Positive = 50
    """Steps between two lines of metrics."""

    def problems(self, where: str) -> list[str]:
        """Return one line for each combination of settings that cannot work."""
        found = []
        if self.stateful and self.context_length is None:
            found.append(
                f"{where}.stateful: needs the length of a window; set {where}.context_length"
            )
        if self.stateful and self.sampling != "uniform":
            found.append(
                f"{where}.sampling: '{self.sampling}' does not go with {where}.stateful=true, "
                "which takes every episode in turn; use uniform"
            )
        if self.return_temperature is not None and self.sampling != "return":
            found.append(f"{where}.return_temperature: only used with {where}.sampling=return")
        return found


@TRAINERS.register("online")
class OnlineTrainerConfig(TrainerSettings):
    """Online training on the policy's own episodes."""

    name: Literal["online"] = "online"
    """Phases of the training."""
    iterations: Positive = 300
    """Iterations of playing and learning."""
    episodes: Positive = 16
    """Episodes played per iteration."""
    num_envs: Positive = 32
    """Environments stepped together, at most."""
    num_workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for a number that suits them."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
    async_rollout: bool = False
    """Play the next episodes while learning from the last: faster, one iteration off-policy."""
    target_return_scale: Rate = 1.1
    """Target return, as a factor of the best known: the data's, or better ones since."""
    target_return_spread: Share = 0.1
    """Share by which an episode's target may be lower, drawn uniformly."""
    return_window: Positive = 4
    """Iterations whose returns are averaged to compare policies."""
    rollback_tolerance: Annotated[float, Field(gt=0)] | None = 0.2
    """Share of the best average return that may be lost, if significantly, before the best
    weights are restored; null for never."""
    parity_tolerance: Rate = 1e-3
    """Largest difference of log-probabilities between the two views at the start."""
    eval_interval: Positive | None = None
    """Iterations between evaluations with fresh seeds, logged but never used to choose."""
    eval_episodes: Positive = 8
    """Episodes of each of these evaluations."""
    checkpoint_interval: Positive = 10
    """Iterations between two saves of `last.pt`: what a crash may cost."""
    save_interval: Positive | None = None
    """Iterations between checkpoints that are kept for good; null keeps last and best only."""
    log_interval: Positive = 1
    """Iterations between two lines of metrics."""


@TRAINERS.register("offline_online")
class OfflineOnlineTrainerConfig(TrainerSettings):
    """Offline training, then online training of the same policy, in one run."""

    name: Literal["offline_online"] = "offline_online"
    """Phases of the training."""
    offline: OfflineTrainerConfig = OfflineTrainerConfig()
    """The first phase."""
    online: OnlineTrainerConfig = OnlineTrainerConfig()
    """The second phase."""

    def problems(self, where: str) -> list[str]:
        """Return the problems of both phases."""
        return self.offline.problems(f"{where}.offline") + self.online.problems(f"{where}.online")
