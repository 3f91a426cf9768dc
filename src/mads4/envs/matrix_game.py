"""Repeated matrix games: a payoff table, constant observations, a coordination problem.

The default is the XOR game with a penalty. AlberDICE (Matsunaga et al. 2023) shows on it that
agents that independently clone a mixture of good joint actions play bad ones.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydantic import Field

from mads4.envs.registry import ENVS, EnvSettings
from mads4.envs.rware_render import load_font
from mads4.errors import UserError
from mads4.settings import Positive
from mads4.types import EnvSpec, FloatArray, IntArray, TimeStep

VERSION = "1"
PENALTY_XOR = ((0.0, 1.0), (1.0, -2.0))
"""Two agents: 1 for different actions, 0 for both 0, -2 for both 1."""
CONSTANT = (0, 1, 0, 1)
"""Every observation and state, as in AlberDICE's recorded data."""

_INK, _FAINT, _PAPER, _MARK = "#26323D", "#6B7784", "#FFFFFF", "#0B4F8A"
_LOW, _HIGH = np.array([230, 159, 0]), np.array([0, 158, 115])  # Okabe and Ito's orange, green
_PICTURE, _LARGEST_CELL, _LEAST_LABELED = 256, 64, 28  # pixels: table, cell, cell with text
_LEAST_WIDTH = 240  # pixels, for a video's header of three values

Payoff: TypeAlias = Annotated[
    list[Any],
    Field(
        min_length=1,
        json_schema_extra={"expected": "nested lists of numbers, one axis per agent"},
    ),
]


class MatrixGame:
    """A one-shot game repeated by the same agents, who share the team reward.

    Args:
        payoff: nested lists of numbers, one axis per agent: ``payoff[a0][a1]…`` is the team's
            reward for the joint action (a0, a1, …). If axes differ in length, an agent's actions
            beyond its own axis are unavailable.
        episode_limit: length of an episode in steps; a time limit, hence a truncation.

    Raises:
        UserError: a ragged or empty payoff, or one that is not finite numbers; no steps.

    The game is deterministic: `reset` ignores its seed. The metric ``coordinated`` counts the steps
    with the highest payoff of the table.
    """

    def __init__(self, payoff: npt.ArrayLike = PENALTY_XOR, episode_limit: int = 50) -> None:
        if episode_limit < 1:
            raise UserError(
                f"env.episode_limit: got {episode_limit}, expected a whole number >= 1."
            )
        self.payoff = _table(payoff)
        shape = self.payoff.shape
        self._best = float(self.payoff.max())
        self._available = np.arange(max(shape)) < np.array(shape)[:, None]
        self._observation = np.tile(np.array(CONSTANT, dtype=np.float32), (len(shape), 1))
        self._state = np.array([CONSTANT], dtype=np.uint8)
        self._step = 0
        self._last: tuple[int, ...] | None = None
        self.spec = EnvSpec(
            name="matrix_game",
            scenario="x".join(map(str, shape)),
            n_agents=len(shape),
            obs_dim=len(CONSTANT),
            state_dim=len(CONSTANT),
            n_actions=max(shape),
            episode_limit=episode_limit,
            reward=f"payoff-{_identity(self.payoff)}",
            state_encoding="constant",
            version=VERSION,
        )
        """Sizes; the reward's name identifies the payoff table."""

    def reset(self, seed: int) -> TimeStep:
        """Start an episode; the seed has no effect."""
        self._step, self._last = 0, None
        return self._time_step(0.0, coordinated=False)

    def step(self, actions: IntArray) -> TimeStep:
        """Play the joint action ``actions`` (N,)."""
        reward = float(self.rewards(np.asarray(actions)))
        self._last = tuple(int(action) for action in actions)
        self._step += 1
        return self._time_step(reward, coordinated=reward == self._best)

    def rewards(self, actions: IntArray) -> FloatArray:
        """Return the payoffs (...) of joint actions (..., N).

        Raises:
            ValueError: an action that an agent does not have.
        """
        index = np.ravel_multi_index(tuple(np.moveaxis(actions, -1, 0)), self.payoff.shape)
        payoffs: FloatArray = self.payoff.reshape(-1)[index]
        return payoffs

    def render(self) -> npt.NDArray[np.uint8]:
        """Return the payoff table with the last joint action framed, (height, width, 3) uint8 RGB.

        Rows are the actions of the first half of the agents, columns those of the others.
        """
        return _picture(self.payoff, self._last)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _time_step(self, reward: float, coordinated: bool) -> TimeStep:
        return TimeStep(
            observation=self._observation,
            state=self._state,
            available_actions=self._available,
            reward=reward,
            truncated=self._step >= self.spec.episode_limit,
            metrics={"coordinated": float(coordinated)},
        )


@ENVS.register("matrix_game")
class MatrixGameConfig(EnvSettings):
    """A repeated matrix game."""

    name: Literal["matrix_game"] = "matrix_game"
    """Environment family."""
    payoff: Payoff = [[0, 1], [1, -2]]
    """Team reward of each joint action: nested lists, one axis per agent."""
    episode_limit: Positive = 50
    """Length of an episode, in steps."""

    @classmethod
    def make(cls, **arguments: Any) -> MatrixGame:
        """Return a new game."""
        return MatrixGame(**arguments)


def _table(payoff: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the payoffs as an array with one axis per agent."""
    expected = (
        "expected nested lists of finite numbers, one axis per agent and rows of equal length, "
        "for example [[0, 1], [1, -2]]"
    )
    given = f"env.payoff: got {reprlib.repr(payoff)}"
    try:
        table = np.asarray(payoff)
    except ValueError as error:  # rows of unequal length
        raise UserError(f"{given}, whose rows differ; {expected}.") from error
    if table.dtype.kind not in "iuf" or not np.isfinite(table).all():
        raise UserError(f"{given}, not all finite numbers; {expected}.")
    if table.ndim == 0 or table.size == 0:
        raise UserError(f"{given}, which has no joint action; {expected}.")
    return table.astype(np.float64)


def _identity(table: npt.NDArray[np.float64]) -> str:
    """Return a hash of 8 characters, so that results of different tables are not averaged."""
    return hashlib.sha256(json.dumps((table + 0.0).tolist()).encode()).hexdigest()[:8]


def _picture(
    payoff: npt.NDArray[np.float64], marked: tuple[int, ...] | None
) -> npt.NDArray[np.uint8]:
    half = payoff.ndim // 2
    rows = int(np.prod(payoff.shape[:half], dtype=np.int64))
    table = payoff.reshape(rows, -1)
    side = max(1, min(_LARGEST_CELL, _PICTURE // max(table.shape)))
    spread = max(float(np.ptp(table)), 1e-12)
    share = ((table - table.min()) / spread)[..., None]
    cells = (_LOW + share * (_HIGH - _LOW)).round().astype(np.uint8)
    margin = side // 2 if side >= _LEAST_LABELED else 2
    wide = max(margin, (_LEAST_WIDTH - side * table.shape[1] + 1) // 2)
    framed = np.pad(
        cells.repeat(side, axis=0).repeat(side, axis=1),
        ((margin, margin), (wide, wide), (0, 0)),
        constant_values=255,
    )
    image = Image.fromarray(framed)
    draw = ImageDraw.Draw(image)
    if side >= _LEAST_LABELED:
        _write(draw, payoff, side, (wide, margin))
    if marked is not None:
        row, column = divmod(int(np.ravel_multi_index(marked, payoff.shape)), table.shape[1])
        left, top = wide + column * side, margin + row * side
        box = (left, top, left + side - 1, top + side - 1)
        draw.rectangle(box, outline=_MARK, width=max(1, side // 10))
    return np.asarray(image, dtype=np.uint8)


def _write(
    draw: ImageDraw.ImageDraw, payoff: npt.NDArray[np.float64], side: int, corner: tuple[int, int]
) -> None:
    """Write the payoffs into the cells, and the actions next to rows and above columns."""
    half, (left, top) = payoff.ndim // 2, corner
    columns = list(np.ndindex(payoff.shape[half:]))
    value, action = load_font(side * 0.34), load_font(side * 0.24)
    for i, first in enumerate(np.ndindex(payoff.shape[:half])):
        middle = top + (i + 0.5) * side
        label = ",".join(map(str, first))
        draw.text((left - side / 4, middle), label, fill=_FAINT, font=action, anchor="mm")
        for j, second in enumerate(columns):
            center, shown = (left + (j + 0.5) * side, middle), f"{payoff[first + second]:.3g}"
            stroke: dict[str, Any] = {"stroke_fill": _INK, "stroke_width": 1}
            draw.text(center, shown, fill=_PAPER, font=value, anchor="mm", **stroke)
    for j, second in enumerate(columns):
        center, label = (left + (j + 0.5) * side, top / 2), ",".join(map(str, second))
        draw.text(center, label, fill=_FAINT, font=action, anchor="mm")
