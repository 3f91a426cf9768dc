"""What the packages hand each other: frozen records with their axes written down.

Axes, everywhere: ``B`` batch, ``T`` time, ``N`` agents (always the last axis before the features).
This module imports neither torch nor hydra at run time, so that every other module may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mads4.errors import UserError

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EnvSpec:
    """Everything a data set, a model and an environment must agree upon.

    Every width in the package comes from here; no number depends on a map's name.
    """

    name: str
    """Environment family, for example ``rware``."""
    scenario: str
    """Member of the family, for example ``tiny-2ag``."""
    n_agents: int
    obs_dim: int
    """Features of one agent's local observation."""
    state_dim: int
    """Features of the global state (as one agent sees it, if `state_per_agent`)."""
    n_actions: int
    episode_limit: int
    """Steps after which an episode is truncated."""
    reward: str
    """Name of the reward definition; results of two definitions are never averaged."""
    state_encoding: str = "default"
    """How the global state is written as numbers."""
    state_per_agent: bool = False
    """True when the state differs from agent to agent (egocentric encodings)."""
    version: str = ""
    """Version of the simulator; recorded, not compared."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, fit for JSON, HDF5 attributes and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvSpec:
        """Build a spec from `to_dict`'s output, ignoring fields of newer versions."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def differences(self, other: EnvSpec) -> list[str]:
        """Return one line for each field in which two specs are incompatible."""
        return [
            f"{f.name}: {getattr(self, f.name)!r} against {getattr(other, f.name)!r}"
            for f in fields(self)
            if f.name != "version" and getattr(self, f.name) != getattr(other, f.name)
        ]

    def require_compatible(self, other: EnvSpec, this: str, that: str, hint: str = "") -> None:
        """Raise `UserError` naming both sides (`this`, `that`) when the specs do not fit.

        `hint` follows: sentences on what to do.
        """
        wrong = self.differences(other)
        if wrong:
            text = f"{this} and {that} do not fit together: {'; '.join(wrong)}. {hint}"
            raise UserError(text.rstrip())


@dataclass(frozen=True)
class TimeStep:
    """What an environment returns from ``reset`` and ``step``."""

    observation: FloatArray
    """(N, obs_dim) float32, what each agent sees locally."""
    state: npt.NDArray[Any]
    """(N, state_dim) if the spec says `state_per_agent`, else (1, state_dim); float32 or uint8."""
    available_actions: BoolArray
    """(N, n_actions), True where the action may be taken; at least one per agent."""
    reward: float = 0.0
    """Team reward of the step that led here; 0 after reset."""
    terminated: bool = False
    """The task itself ended: nothing follows."""
    truncated: bool = False
    """The episode was cut (time limit): more would have followed."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Increments of episode metrics (summed over the episode), for example ``deliveries``."""

    @property
    def done(self) -> bool:
        """True when the episode is over, for whichever reason."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T real steps, and what followed the last, where the source has it."""

    observation: FloatArray
    """(T, N, obs_dim) float32; observation t is what action t was chosen from."""
    state: npt.NDArray[Any]
    """(T, N or 1, state_dim); uint8 when all features are 0 or 1, else float32."""
    available_actions: BoolArray
    """(T, N, n_actions)."""
    action: IntArray
    """(T, N) int64, the actions that were executed."""
    reward: FloatArray
    """(T,) float32, the team reward that action t earned."""
    terminated: bool
    truncated: bool
    seed: int
    """The episode's index in the (seed, index) pair that its randomness derives from."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Sums over the episode of the environment's metrics, and the behavior's parameters."""
    last_observation: FloatArray | None = None
    """(N, obs_dim) float32, what followed the last action: truncated episodes bootstrap from it.
    This and the next two are all None where the source does not have them."""
    last_state: npt.NDArray[Any] | None = None
    """(N or 1, state_dim), in the dtype of `state`."""
    last_available_actions: BoolArray | None = None
    """(N, n_actions)."""

    @property
    def length(self) -> int:
        """Number of steps T."""
        return int(self.action.shape[0])

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of team rewards."""
        return float(self.reward.sum(dtype=np.float64))


def returns_to_go(reward: FloatArray) -> FloatArray:
    """Return R^t = r^t + r^{t+1} + … along the last axis, float32, same shape as `reward`."""
    reversed_sum = np.cumsum(np.flip(reward, -1), axis=-1, dtype=np.float64)
    return np.flip(reversed_sum, -1).astype(np.float32)


@dataclass(frozen=True)
class SequenceBatch:
    """A batch of trajectories (or windows of them), zero-padded at the end to a common length T.

    A batch for critics has one row more than its longest trajectory: the *bootstrap row*. In it,
    the first row after a trajectory's real ones holds what followed these, where that is known.
    Its mask is False, so that it enters no loss. See `mads4.data.collate.gather`.
    """

    observation: torch.Tensor
    """(B, T, N, obs_dim) float32."""
    state: torch.Tensor
    """(B, T, N or 1, state_dim) float32 or uint8."""
    available_actions: torch.Tensor
    """(B, T, N, n_actions) bool; all True where padded."""
    action: torch.Tensor
    """(B, T, N) int64, what was executed; 0 where padded."""
    previous_action: torch.Tensor
    """(B, T, N) int64, each agent's own action one step earlier; -1 at an episode's first step."""
    return_to_go: torch.Tensor
    """(B, T) float32, R^t paired with observation t, in the environment's reward units."""
    reward: torch.Tensor
    """(B, T) float32, the team reward of the step; 0 where padded."""
    terminated: torch.Tensor
    """(B, T) bool, True on a last real step whose task ended (not on truncation)."""
    follows: torch.Tensor
    """(B, T) bool, True where row t + 1 of this batch is the true successor: a real step, or the
    bootstrap row."""
    mask: torch.Tensor
    """(B, T) bool, True on real steps."""

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> SequenceBatch:
        """Return the batch of what `function` makes of each tensor."""
        return SequenceBatch(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> SequenceBatch:
        """Return the batch on `device`."""
        return self.map(lambda values: values.to(device, non_blocking=True))


@dataclass(frozen=True)
class PolicyInput:
    """One time step of B environments, as tensors (or arrays, for policies without torch)."""

    observation: torch.Tensor
    """(B, N, obs_dim) float32."""
    state: torch.Tensor
    """(B, N or 1, state_dim)."""
    available_actions: torch.Tensor
    """(B, N, n_actions) bool."""
    return_to_go: torch.Tensor
    """(B,) the target return minus the rewards so far, in the environment's reward units."""
    uniform: torch.Tensor | None
    """(B, N) float64 in [0, 1): the randomness actions are drawn with; None takes the likeliest."""
    order_key: torch.Tensor | None = None
    """(B, N) float64, the same at every step of an episode: agents decide by increasing key, if
    the policy's order is random; None for the order of their numbers."""
    message_dropped: torch.Tensor | None = None
    """(B, N) bool, True where what an agent's predecessor sends does not reach it; None drops
    nothing. `rollout(message_drop=p)` draws it: a number per agent and step (from the episode's
    second stream, after the order keys) below p; p is one probability or one per agent (N,)."""
    action: torch.Tensor | None = None
    """(B, N) int64, what is executed whatever the policy would do (replays); None to decide."""


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy decided for B environments."""

    action: torch.Tensor
    """(B, N) int64."""
    logits: torch.Tensor
    """(B, N, n_actions), -inf where an action is unavailable."""
