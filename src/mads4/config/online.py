"""Online training: the options `online` and `offline_online` of the group `trainer`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mads4.config.fields import NotNegative, Positive, Rate, Section, SSMParameter

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class OnlineTrainerConfig(Section):
    """On-policy training in the environment: MAPPO through the agents' chain."""

    name: Literal["online"] = "online"
    """Kind of training."""
    iterations: Positive = 300
    """Times that episodes are played and learned from."""
    episodes: Positive = 16
    """Episodes played for each iteration."""
    parallel: Positive = 32
    """Environments played in lockstep, at most."""
    workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for what suits their number."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
    overlap: bool = False
    """Play the next episodes while learning from the last: faster, one iteration off-policy."""
    segment: Positive | None = 100
    """Time steps that gradients flow back through, from a stored state; null for whole episodes."""
    gradients: Literal["convolutional", "recurrent"] = "convolutional"
    """View that segments are differentiated in; both give the same, the first one faster."""
    batch_size: Positive = 64
    """Segments per optimizer step."""
    epochs: Positive = 4
    """Passes over an iteration's segments."""
    actor_learning_rate: Rate = 1e-5
    """Of the policy."""
    critic_learning_rate: Rate = 1e-4
    """Of the critic."""
    critic_width: Positive = 128
    """Width of the critic, in features."""
    critic_warmup: NotNegative = 10
    """Iterations at the beginning in which only the critic learns."""
    freeze: Annotated[tuple[SSMParameter, ...], Field(strict=False)] = ("A", "dt")
    """State-space parameters that keep their values."""
    gamma: Share = 0.99
    """Discount of a step."""
    gae_lambda: Share = 0.95
    """λ of the generalized advantage estimation."""
    clip: Rate = 0.2
    """Largest useful change of an action's probability, relative."""
    value_clip: Rate | None = 0.2
    """Largest useful change of a value, in standard deviations of the returns; null for any."""
    entropy: Weight = 0.001
    """Weight of the policy's entropy, which is rewarded."""
    grad_clip: Rate = 1.0
    """Largest norm of a gradient, of policy and critic each."""
    target_factor: Rate = 1.1
    """Return asked for, as a factor of the best one known: the data's, or better ones since."""
    target_spread: Share = 0.1
    """Share by which an episode may be asked for less than that, drawn evenly."""
    leash_weight: Weight = 0.1
    """Initial weight of the divergence from the policy that training began with; 0 for none."""
    leash_divergence: Rate = 0.1
    """Divergence in nats per agent-step that the leash's weight is adapted to."""
    stop_divergence: Rate | None = 0.02
    """Divergence in nats of one iteration after which its epochs end; null for never."""
    cloning_weight: Weight = 0.0
    """Weight of behavior cloning on the data set and on kept episodes."""
    cloning_batch: Positive = 8
    """Trajectories cloned from per optimizer step."""
    kept_episodes: NotNegative = 0
    """Best own episodes to go on cloning from, each relabeled with the return it achieved."""
    smoothing: Positive = 4
    """Iterations whose returns are averaged to judge the policy by."""
    rollback: Annotated[float, Field(gt=0)] | None = 0.2
    """Share of the best average return that may be lost, if by more than chance explains, before
    the best weights are restored; null for never."""
    parity_tolerance: Rate = 1e-3
    """Largest difference of log-probabilities between the two views to start with."""
    checkpoint_interval: Positive = 10
    """Iterations between two saves of `last.pt`: what a crash may cost."""
    keep_every: Positive | None = None
    """Iterations between checkpoints that are kept for good; null keeps last and best only."""
    log_interval: Positive = 1
    """Iterations between two lines of metrics."""
