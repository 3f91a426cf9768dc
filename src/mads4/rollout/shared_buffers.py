"""Where environments and whoever plays them write down the present, one row per environment.

A board is a set of arrays over one buffer, so that it can lie in memory that processes share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import MultiAgentEnv
from mads4.errors import UserError
from mads4.types import BoolArray, EnvSpec, TimeStep

IDLE, STEP, RESET = 0, 1, 2
"""Orders to an environment."""

_ALIGNMENT = 64  # bytes: no two arrays share a cache line


@dataclass(frozen=True)
class SharedBuffers:
    """The present of R environments; every array begins with the axis R."""

    order: npt.NDArray[np.uint8]
    """(R,) what each environment shall do next: `IDLE`, `STEP` or `RESET`."""
    seed: npt.NDArray[np.int64]
    """(R,) what to reset with."""
    action: npt.NDArray[np.int64]
    """(R, N) what to step with."""
    busy: BoolArray
    """(R,) True while the environment is at work: who is to blame if its process dies."""
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
        """Return the board of `rows` environments in `buffer`, or in memory of its own."""
        buffer = bytearray(cls.size(spec, rows)) if buffer is None else buffer
        arrays: dict[str, npt.NDArray[Any]] = {}
        offset = 0
        for name, (dtype, shape) in _layout(spec, rows).items():
            arrays[name] = np.ndarray(shape, dtype, buffer, offset)
            offset += _padded(arrays[name].nbytes)
        return cls(**arrays)

    @staticmethod
    def size(spec: EnvSpec, rows: int) -> int:
        """Return the bytes of a board."""
        layout = _layout(spec, rows).values()
        return sum(
            _padded(int(np.prod(shape)) * np.dtype(dtype).itemsize) for dtype, shape in layout
        )

    def states(self, rows: slice) -> npt.NDArray[Any]:
        """Return a copy of some environments' states in the dtype in which they write them."""
        chosen: npt.NDArray[Any] = self.binary_state if self.binary[rows].all() else self.state
        return np.array(chosen[rows])

    def time_step(self, row: int) -> TimeStep:
        """Return a copy of what one environment shows at present."""
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
        "action": (np.int64, (rows, n)),
        "busy": (np.bool_, (rows,)),
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


class Seat:
    """An environment at its row of a board.

    Args:
        env: obeys the row's orders.
        board: where orders are read and the present is written.
        row: the environment's.
    """

    def __init__(self, env: MultiAgentEnv, board: SharedBuffers, row: int) -> None:
        self.env = env
        self.row = row
        self.metrics: dict[str, float] = {}
        """Sums over the running episode, or the last one, of the environment's metrics."""
        self._board = board
        self._limit = env.spec.episode_limit
        self._length = 0

    def obey(self) -> bool:
        """Do what the board orders; return whether that ended an episode."""
        board, row = self._board, self.row
        order = board.order[row]
        if order == IDLE:
            return False
        board.busy[row] = True
        if order == RESET:
            self._reset()
        else:
            self._step()
        board.busy[row] = False
        return bool(board.terminated[row] or board.truncated[row])

    def _reset(self) -> None:
        now = self.env.reset(int(self._board.seed[self.row]))
        self.metrics, self._length = {}, 0
        self._require_shapes(now)
        self._write(now)

    def _step(self) -> None:
        now = self.env.step(self._board.action[self.row].copy())
        self._length += 1
        for name, increment in now.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(increment)
        self._write(now)

    def _write(self, now: TimeStep) -> None:
        board, row = self._board, self.row
        binary = now.state.dtype == np.uint8
        board.observation[row] = now.observation
        (board.binary_state if binary else board.state)[row] = now.state
        board.binary[row] = binary
        board.available_actions[row] = now.available_actions
        board.reward[row] = now.reward
        board.terminated[row] = now.terminated
        over = now.truncated or (self._length >= self._limit and not now.terminated)
        board.truncated[row] = over

    def _require_shapes(self, now: TimeStep) -> None:
        """Raise `UserError` when the environment does not keep to its spec."""
        for name in ("observation", "state", "available_actions"):
            given, expected = np.shape(getattr(now, name)), getattr(self._board, name).shape[1:]
            if given != expected:
                spec = self.env.spec
                raise UserError(
                    f"The environment {spec.name} ({spec.scenario}) returns {name} of shape "
                    f"{given}, but its spec promises {expected}. Mend the one or the other."
                )
