"""The policy and its kernels: the groups `model` and `kernel`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from mads4.config.fields import Positive, Rate, Section, SSMParameter


class Mads4Config(Section):
    """The MADS4 policy."""

    name: Literal["mads4"] = "mads4"
    """Policy architecture."""
    n_layers: Positive = 3
    """Number of S4 blocks."""
    d_model: Positive = 96
    """Width H of a block, in features."""
    d_state: Annotated[int, Field(ge=2, multiple_of=2)] = 96
    """State size N of each feature's state-space model; even."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of dropping a block's channel, for a whole trajectory, in training."""
    parameterization: Literal["diagonal", "dplr"] = "diagonal"
    """Form of the state matrix A: diagonal, or diagonal plus low rank (HiPPO-LegS)."""
    discretization: Literal["zoh", "bilinear"] = "zoh"
    """From continuous to discrete time: zero-order hold or bilinear."""
    initialization: Literal["legs", "lin", "inv", "random", "real"] = "legs"
    """Where a diagonal A starts; real: real modes instead of conjugate pairs. dplr: legs."""
    n_ssm: Positive | None = None
    """Independent pairs of A and B, a divisor of d_model; null for one per channel."""
    dt_min: Rate = 0.001
    """Smallest initial step size, in units of one environment step."""
    dt_max: Rate = 0.1
    """Largest initial step size, in units of one environment step."""
    trainable: Annotated[tuple[SSMParameter, ...], Field(strict=False)] = (
        "A",
        "B",
        "C",
        "dt",
        "D",
    )
    """State-space parameters that are trained; the others keep their initial values."""
    memory: bool = True
    """False cuts the blocks' memory: the same network, seeing one time step."""
    message: Literal["none", "output", "state", "logits"] = "output"
    """What an agent hands on: nothing, its output, read-outs of its S4 state, or its logits."""
    message_dim: Positive = 16
    """Width of the message, in features (output, state)."""
    message_time: Literal["same_step", "previous_step"] = "same_step"
    """When a message is read: agents decide one after another, or all at once, a step later."""
    share_action: bool = False
    """Hand on the action that was taken, too."""
    detach_message: bool = False
    """Keep gradients from flowing back through messages."""
    agent_order: Literal["fixed", "random"] = "fixed"
    """Who decides first: by number, or drawn for each trajectory and each episode."""
    message_drop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that what is handed on is lost, in training."""
    use_return: bool = True
    """Condition on the return-to-go."""
    use_global_state: bool = True
    """Feed the global state."""
    use_previous_action: bool = True
    """Feed the agent's own previous action."""
    normalization: Literal["shared", "per_agent"] = "shared"
    """Statistics that scale observations and states: one for all agents, or each its own."""


class MlpConfig(Section):
    """A feed-forward policy: no memory, and nothing handed on."""

    name: Literal["mlp"] = "mlp"
    """Policy architecture."""
    n_layers: Positive = 2
    """Hidden layers behind the embedding."""
    d_model: Positive = 128
    """Their width, in features."""
    use_return: bool = True
    """Condition on the return-to-go."""
    use_global_state: bool = True
    """Feed the global state."""
    use_previous_action: bool = False
    """Feed the agent's own previous action."""
    normalization: Literal["shared", "per_agent"] = "shared"
    """Statistics that scale observations and states: one for all agents, or each its own."""


ModelConfig: TypeAlias = Annotated[Mads4Config | MlpConfig, Field(discriminator="name")]


class KernelConfig(Section):
    """How the S4 convolution kernel is computed."""

    backend: str = "auto"
    """auto takes the fastest that runs; torch always runs; keops and cuda where installed."""
