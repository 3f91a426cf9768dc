"""Environments that are stepped together: their shared buffers, protocol and supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import MultiAgentEnv
from mads4.types import BoolArray, EnvSpec, TimeStep

IDLE, STEP, RESET, PLAY = 0, 1, 2, 3
"""Orders to an environment; `PLAY` is a whole episode with the behavior policy beside it."""

LONGEST_PAUSE = 60.0
"""Maximum seconds before a lost process is replaced."""

_ALIGNMENT = 64  # bytes: no two arrays share a cache line


@dataclass(frozen=True)
class SharedBuffers:
    """Orders to R environments, and their last time steps; every array begins with the axis R.

    All arrays are views of one buffer, so that they can lie in memory that processes share.
    """

    order: npt.NDArray[np.uint8]
    """(R,) what each environment does next: `IDLE`, `STEP`, `RESET` or `PLAY`."""
    seed: npt.NDArray[np.int64]
    """(R,) seed of the next `RESET`."""
    episode: npt.NDArray[np.int64]
    """(R,) number of the episode to `PLAY`."""
    action: npt.NDArray[np.int64]
    """(R, N) actions of the next `STEP`."""
    busy: BoolArray
    """(R,) True while the environment executes an order: it is blamed if its process dies."""
    heartbeat: npt.NDArray[np.float64]
    """(R,) `time.monotonic()` of the last step within a `PLAY`."""
    observation: npt.NDArray[np.float32]
    """(R, N, obs_dim)."""
    state: npt.NDArray[np.float32]
    """(R, N or 1, state_dim), valid where not `binary`."""
    binary_state: npt.NDArray[np.uint8]
    """The same, valid where `binary`."""
    binary: BoolArray
    """(R,) whether the environment writes its state as uint8."""
    available_actions: BoolArray
    """(R, N, n_actions)."""
    reward: npt.NDArray[np.float64]
    """(R,) of the last step."""
    terminated: BoolArray
    """(R,)."""
    truncated: BoolArray
    """(R,) also where the spec's limit, not the environment, ended the episode."""

    @classmethod
    def over(cls, spec: EnvSpec, rows: int, buffer: Any = None) -> SharedBuffers:
        """Return the arrays of `rows` environments in `buffer`, or in memory of their own."""
        buffer = bytearray(cls.size(spec, rows)) if buffer is None else buffer
        arrays: dict[str, npt.NDArray[Any]] = {}
        offset = 0
        for name, (dtype, shape) in _layout(spec, rows).items():
            arrays[name] = np.ndarray(shape, dtype, buffer, offset)
            offset += _padded(arrays[name].nbytes)
        return cls(**arrays)

    @staticmethod
    def size(spec: EnvSpec, rows: int) -> int:
        """Return the size in bytes for `rows` environments."""
        layout = _layout(spec, rows).values()
        return sum(
            _padded(int(np.prod(shape)) * np.dtype(dtype).itemsize) for dtype, shape in layout
        )

    def states(self, rows: slice) -> npt.NDArray[Any]:
        """Return a copy of some environments' states in the dtype in which they write them.

        An environment that has written none yet, because its process died before, has zeros.
        """
        binary, states = self.binary[rows], np.array(self.state[rows])
        if not binary.any():
            return states
        result = np.array(self.binary_state[rows])
        if states[~binary].any():  # some write floats
            states[binary] = result[binary]
            return states
        result[~binary] = 0
        return result

    def time_step(self, row: int) -> TimeStep:
        """Return a copy of one environment's last time step."""
        return TimeStep(
            observation=self.observation[row].copy(),
            state=self.states(slice(row, row + 1))[0],
            available_actions=self.available_actions[row].copy(),
            reward=float(self.reward[row]),
            terminated=bool(self.terminated[row]),
            truncated=bool(self.truncated[row]),
        )


def _layout(spec: EnvSpec, rows: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    n = spec.n_agents
    state = (rows, n if spec.state_per_agent else 1, spec.state_dim)
    return {
        "order": (np.uint8, (rows,)),
        "seed": (np.int64, (rows,)),
        "episode": (np.int64, (rows,)),
        "action": (np.int64, (rows, n)),
        "busy": (np.bool_, (rows,)),
        "heartbeat": (np.float64, (rows,)),
        "observation": (np.float32, (rows, n, spec.obs_dim)),
        "state": (np.float32, state),
        "binary_state": (np.uint8, state),
        "binary": (np.bool_, (rows,)),
        "available_actions": (np.bool_, (rows, n, spec.n_actions)),
        "reward": (np.float64, (rows,)),
        "terminated": (np.bool_, (rows,)),
        "truncated": (np.bool_, (rows,)),
    }


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class WorkerLost:
    """Environments whose current episodes were lost and have to be restarted."""

    rows: tuple[int, ...]
    """All environments that are affected."""
    blamed: tuple[int, ...]
    """Those of them that may have caused it."""
    reason: str
    """What happened, to follow `who`."""
    who: str = "a worker process"
    """Who failed."""


@dataclass(frozen=True)
class Supervision:
    """How environments are supervised that may hang, die or grow, each in a process of its own.

    An attribute ``supervision`` of what makes the environments (`EnvFactory`) asks for it.
    """

    processes: int | None = None
    """Maximum number of environments at a time; None for one per core."""
    reset_timeout: float = 180.0
    """Timeout of a reset, in which a game may have to be launched, in seconds."""
    step_timeout: float = 60.0
    """Timeout of a step in seconds."""
    memory_mib: float | None = None
    """Memory of a process and all that it started, beyond which it is replaced before its next
    episode; None for no limit."""
    pause: float = 1.0
    """Seconds before a lost process is replaced, doubled each time that no episode was finished in
    between, up to `LONGEST_PAUSE`."""

    def delay(self, failures: int) -> float:
        """Return how many seconds to wait after so many failures in a row."""
        return min(self.pause * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE) if failures else 0.0


@dataclass
class Incidents:
    """How often processes were replaced and episodes discarded."""

    processes_lost: int = 0
    """They died or gave no answer."""
    episodes_broken: int = 0
    """The environment reported that its episode is invalid."""
    planned_restarts: int = 0
    """Processes replaced between episodes because of their memory."""

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

    def since(self, before: Incidents) -> Incidents:
        """Return what has been added to `before`."""
        return Incidents(
            **{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        )


class VectorEnv(Protocol):
    """Environments of one spec that follow the orders in their buffers.

    Orders, actions and seeds are written to `buffers` before `send`, results are read from them
    after `wait`. Between the two the rows belong to the environments. Different rows may be sent
    separately, so that some are stepped while the policy decides for others.
    """

    @property
    def spec(self) -> EnvSpec:
        """What all environments have in common."""
        ...

    @property
    def buffers(self) -> SharedBuffers:
        """Orders and time steps, one row for each environment."""
        ...

    def groups(self, rows: int) -> list[slice]:
        """Return how the first `rows` environments are best sent: all at once or in turns."""
        ...

    def send(self, rows: slice) -> None:
        """Let the environments `rows`, one of the groups, execute their orders."""
        ...

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Wait until a group's environments have done so; return those that were lost."""
        ...

    @property
    def incidents(self) -> Incidents:
        """What has gone wrong so far."""
        ...

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return the sums of an episode's metrics: once it is over, or, in this process, so far."""
        ...

    def env(self, row: int) -> MultiAgentEnv | None:
        """Return the environment itself if it lives in this process."""
        ...

    def close(self) -> None:
        """Close the environments and end their processes."""
        ...
