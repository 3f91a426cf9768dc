"""SMAX battles: many at once as a vector environment, and single ones as environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.smax.engine import WIDTH, Array, Shown, Units, engine
from mads4.envs.smax.render import render
from mads4.envs.vector import IDLE, RESET, STEP, Incidents, SharedBuffers, WorkerLost
from mads4.types import EnvSpec, IntArray, TimeStep

_STEP_FIELDS = ("observation", "state", "available_actions", "reward", "terminated", "truncated")


class SmaxVector:
    """Battles in parallel, `WIDTH` per call; a `mads4.envs.vector.VectorEnv`.

    An episode is the same, bit for bit, for any number of rows and in any row.

    Args:
        rows: number of parallel battles.
        scenario: one of `mads4.envs.smax.engine.SCENARIOS`.
        options: further keyword arguments of jaxmarl's ``HeuristicEnemySMAX``.

    Raises:
        UserError: jaxmarl is missing; an unknown scenario or option.
    """

    def __init__(
        self, rows: int, scenario: str = "2s3z", options: dict[str, Any] | None = None
    ) -> None:
        self.engine = engine(scenario, options)
        self.spec: EnvSpec = self.engine.spec
        self.buffers = SharedBuffers.over(self.spec, rows)
        self.incidents = Incidents()
        self._battles: list[Any] = []
        self._pending: list[tuple[slice, Array, Shown]] = []
        self._win = np.zeros(rows, dtype=np.bool_)
        self._units: Units | None = None

    def groups(self, rows: int) -> list[slice]:
        """Return one group: all rows advance together."""
        return [slice(0, rows)]

    def send(self, rows: slice) -> None:
        """Start the orders in the buffers for the battles `rows`; JAX runs asynchronously."""
        if not self._battles:  # compile only if battles are played
            chunks = -(-len(self.buffers.order) // WIDTH)
            self._battles = [self.engine.blank() for _ in range(chunks)]
        order = np.zeros(len(self._battles) * WIDTH, dtype=np.uint8)
        order[rows] = self.buffers.order[rows]
        for chunk, begin in enumerate(range(0, len(order), WIDTH)):
            at = slice(begin, min(begin + WIDTH, len(self.buffers.order)))
            for what in (STEP, RESET):
                mask = order[begin : begin + WIDTH] == what
                if mask.any():
                    self._pending.append((at, mask, self._compute(chunk, at, what, mask)))

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Write the results of `send` to the buffers; no worker can be lost."""
        for at, mask, shown in self._pending:
            self._write(at, mask[: at.stop - at.start], shown)
        self._pending = []
        return []

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return ``win``: 1 once the battle is won."""
        return {"win": float(self._win[row])}

    def units(self, row: int) -> Units:
        """Return the units of a battle that has been reset."""
        assert self._units is not None
        return Units(*(values[row].copy() for values in self._units))

    def env(self, row: int) -> MultiAgentEnv:
        """Return one battle as an environment."""
        return SmaxEnv(vector=self, row=row)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _compute(self, chunk: int, at: slice, what: int, mask: Array) -> Shown:
        """Reset or step the battles of a chunk where `mask` (WIDTH,) is True."""
        engine_, battles = self.engine, self._battles[chunk]
        lacking = WIDTH - (at.stop - at.start)
        if what == RESET:
            seed = np.pad(self.buffers.seed[at], (0, lacking))
            self._battles[chunk], shown = engine_.reset(battles, seed, mask)
        else:
            action = np.pad(self.buffers.action[at], ((0, lacking), (0, 0)))
            self._battles[chunk], shown = engine_.step(battles, action, mask)
        return shown

    def _write(self, at: slice, mask: Array, shown: Shown) -> None:
        rows = np.flatnonzero(mask)
        for name in _STEP_FIELDS:
            getattr(self.buffers, name)[at.start + rows] = np.asarray(getattr(shown, name))[rows]
        self._win[at.start + rows] = np.asarray(shown.win)[rows]
        units = Units(*map(np.asarray, shown.units))
        if self._units is None:
            size = len(self._win)
            self._units = Units(*(np.zeros((size, *new.shape[1:]), new.dtype) for new in units))
        for kept, new in zip(self._units, units, strict=True):
            kept[at.start + rows] = new[rows]


class SmaxEnv:
    """One battle of stalkers, zealots, marines … against jaxmarl's heuristic policy.

    The team reward is the share of the enemies' health that it removes (1 in total), plus 1 for
    winning. An episode terminates when a side is dead; the time limit truncates it. Dead agents
    can only stop. The metric ``win`` is 1 for the step that wins.

    Args:
        scenario: one of `mads4.envs.smax.engine.SCENARIOS`.
        options: further keyword arguments of jaxmarl's ``HeuristicEnemySMAX`` (``max_steps``,
            ``enemy_shoots``, ``attack_mode``, ``see_enemy_actions``, ``walls_cause_death`` …).
        vector: battles of which this is one, instead of a new one.
        row: its row there.

    Raises:
        UserError: jaxmarl is missing; an unknown scenario or option.
    """

    def __init__(
        self,
        scenario: str = "2s3z",
        options: dict[str, Any] | None = None,
        vector: SmaxVector | None = None,
        row: int = 0,
    ) -> None:
        self._vector, self._row = vector or SmaxVector(1, scenario, options), row
        self.spec = self._vector.spec
        """Sizes, reward definition and version."""
        self.rules = self._vector.engine.rules
        """Properties of the unit types and the map."""

    @property
    def units(self) -> Units:
        """All units, including those that no agent sees."""
        return self._vector.units(self._row)

    def reset(self, seed: int) -> TimeStep:
        """Start an episode; the same seed and actions give the same trajectory, bit for bit."""
        self._vector.buffers.seed[self._row] = seed
        return self._execute(RESET, won=0.0)

    def step(self, actions: IntArray) -> TimeStep:
        """Execute ``actions`` (N,): 0 to 3 north, east, south, west, 4 stop, 5 + j attack j."""
        won = self._vector.metrics(self._row)["win"]
        self._vector.buffers.action[self._row] = actions
        return self._execute(STEP, won)

    def player(self) -> Callable[[Array, Array], IntArray]:
        """Return jaxmarl's heuristic policy for the allies, in its initial state.

        It maps a random key (2,) uint32 and the observations to the actions (N,), which may be
        unavailable ones for dead agents.
        """
        engine_ = self._vector.engine
        memory = engine_.heuristic_memory()

        def act(words: Array, observation: Array) -> IntArray:
            nonlocal memory
            memory, action = engine_.heuristic(words, memory, observation)
            return action

        return act

    def render(self) -> npt.NDArray[np.uint8]:
        """Return a picture of the battle, (height, width, 3) uint8 RGB."""
        return render(self.units, self.rules)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _execute(self, order: int, won: float) -> TimeStep:
        buffers, rows = self._vector.buffers, slice(self._row, self._row + 1)
        buffers.order[rows] = order
        self._vector.send(rows)
        self._vector.wait(rows)
        buffers.order[rows] = IDLE
        increment = self._vector.metrics(self._row)["win"] - won
        return replace(buffers.time_step(self._row), metrics={"win": increment})
