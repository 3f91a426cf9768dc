"""The Multi-Robot Warehouse (RWARE 2.0, Papoudakis et al. 2021) as an environment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mads4.envs.registry import ENVS, EnvSettings
from mads4.envs.rware_render import render
from mads4.envs.rware_state import ENCODINGS, StateEncoder
from mads4.errors import UserError, require_choice
from mads4.settings import text
from mads4.types import EnvSpec, IntArray, TimeStep

VERSION = "rware 2.0.0"
SIZES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5)}
"""Rows and columns of shelf blocks."""
REQUESTS_PER_AGENT = {"easy": 2.0, "normal": 1.0, "hard": 0.5}
REWARDS = ("deliveries", "alberdice")
N_ACTIONS = 5
SCENARIO_FORM = "<tiny|small|medium|large>-<agents>ag[-easy|-hard]"
_SCENARIO = re.compile(r"(?P<size>[a-z]+)-(?P<agents>[1-9]\d*)ag(-(?P<difficulty>[a-z]+))?")


@dataclass(frozen=True)
class Scenario:
    """A warehouse's size, number of robots and difficulty."""

    size: str
    n_agents: int
    difficulty: str

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """Parse ``tiny-2ag``, ``small-4ag-hard`` …; raise `UserError` for any other form."""
        match = _SCENARIO.fullmatch(text)
        if match is None:
            raise UserError(
                f"env.scenario: got '{text}', expected {SCENARIO_FORM}, for example 'tiny-2ag'."
            )
        difficulty = match["difficulty"] or "normal"
        require_choice("env.scenario (size)", match["size"], SIZES)
        require_choice("env.scenario (difficulty)", difficulty, REQUESTS_PER_AGENT)
        return cls(match["size"], int(match["agents"]), difficulty)

    def warehouse_options(self) -> dict[str, Any]:
        """Return the keyword arguments of RWARE's own ids for this warehouse."""
        from rware.warehouse import ObservationType, RewardType  # slow to import

        rows, columns = SIZES[self.size]
        return {
            "shelf_columns": columns,
            "shelf_rows": rows,
            "column_height": 8,
            "n_agents": self.n_agents,
            "msg_bits": 0,
            "sensor_range": 1,
            "request_queue_size": max(1, int(self.n_agents * REQUESTS_PER_AGENT[self.difficulty])),
            "max_inactivity_steps": None,
            "max_steps": 500,
            "reward_type": RewardType.INDIVIDUAL,
            "observation_type": ObservationType.FLATTENED,
        }


ScenarioName: TypeAlias = Annotated[
    str,
    text(
        r"(tiny|small|medium|large)-[1-9]\d*ag(-easy|-hard)?",
        "{tiny|small|medium|large}-{k}ag[-easy|-hard], for example tiny-2ag",
    ),
]


class RwareEnv:
    """A warehouse whose robots are rewarded as a team for delivering requested shelves to a goal.

    Args:
        scenario: ``<size>-<agents>ag[-easy|-hard]``.
        reward: ``deliveries`` (number of shelves delivered by all agents) or ``alberdice`` (the
            reward in AlberDICE's recorded data: agent 0's deliveries plus small shaping terms).
        state_encoding: encoding of the global state, see `mads4.envs.rware_state`.
        options: further keyword arguments of `rware.warehouse.Warehouse` (``layout``,
            ``request_queue_size``, ``max_steps``, ``sensor_range`` …).

    Raises:
        UserError: an unknown scenario, reward, encoding or option.

    RWARE reports the end of an episode at ``max_steps`` as a termination; it is a time limit, hence
    a truncation here.
    """

    def __init__(
        self,
        scenario: str = "tiny-2ag",
        reward: str = "deliveries",
        state_encoding: str = "entities",
        options: dict[str, Any] | None = None,
    ) -> None:
        arguments = Scenario.parse(scenario).warehouse_options() | (options or {})
        require_choice("env.reward", reward, REWARDS)
        require_choice("env.state_encoding", state_encoding, ENCODINGS)
        from rware.warehouse import Warehouse

        try:
            self.warehouse = Warehouse(**arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"env.options: RWARE rejects {options}: {error}") from error
        self._reward = reward
        self._encoder: StateEncoder = ENCODINGS[state_encoding](self.warehouse)
        self._available = np.ones((self.warehouse.n_agents, N_ACTIONS), dtype=np.bool_)
        self.spec = EnvSpec(
            name="rware",
            scenario=scenario,
            n_agents=self.warehouse.n_agents,
            obs_dim=int(self.warehouse.observation_space[0].shape[0]),
            state_dim=self._encoder.dim,
            n_actions=N_ACTIONS,
            episode_limit=int(arguments["max_steps"]),
            reward=reward,
            state_encoding=state_encoding,
            state_per_agent=self._encoder.per_agent,
            version=VERSION,
        )
        """Sizes, reward definition and version."""

    def reset(self, seed: int) -> TimeStep:
        """Start an episode; the same seed and actions give the same trajectory, bit for bit."""
        observations, _ = self.warehouse.reset(seed=seed)
        return self._time_step(observations, reward=0.0, deliveries=0.0, ended=False)

    def step(self, actions: IntArray) -> TimeStep:
        """Execute ``actions`` (N,): 0 wait, 1 forward, 2 turn left, 3 turn right, 4 load/unload."""
        observations, rewards, ended, _, _ = self.warehouse.step([int(a) for a in actions])
        deliveries = float(sum(rewards))
        reward = deliveries if self._reward == "deliveries" else self._alberdice_reward(rewards)
        return self._time_step(observations, reward, deliveries, ended)

    def render(self) -> npt.NDArray[np.uint8]:
        """Return a picture of the warehouse, (height, width, 3) uint8 RGB."""
        return render(self.warehouse)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _time_step(
        self, observations: Any, reward: float, deliveries: float, ended: bool
    ) -> TimeStep:
        return TimeStep(
            observation=np.stack(observations),
            state=self._encoder.encode(),
            available_actions=self._available,
            reward=reward,
            terminated=False,
            truncated=bool(ended),
            metrics={"deliveries": deliveries},
        )

    def _alberdice_reward(self, rewards: list[float]) -> float:
        """Return agent 0's reward with the shaping found in AlberDICE's recorded data."""
        agent = self.warehouse.agents[0]
        requested = {(shelf.x, shelf.y) for shelf in self.warehouse.request_queue}
        reach = self.warehouse.sensor_range
        if (agent.x, agent.y) in requested:
            shaping = 0.006 if agent.carrying_shelf else 0.003
        elif any(abs(x - agent.x) <= reach and abs(y - agent.y) <= reach for x, y in requested):
            shaping = 0.001
        else:
            shaping = 0.0
        return float(rewards[0]) + shaping


@ENVS.register("rware")
class RwareConfig(EnvSettings):
    """The Multi-Robot Warehouse."""

    name: Literal["rware"] = "rware"
    """Environment family."""
    scenario: ScenarioName = "tiny-2ag"
    """Warehouse size, number of agents and difficulty."""
    reward: Literal["deliveries", "alberdice"] = "deliveries"
    """Team reward: number of deliveries, or AlberDICE's shaped reward of agent 0."""
    state_encoding: Literal["entities", "maps", "coordinates", "alberdice"] = "entities"
    """How the global state is written as numbers."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the environment's constructor."""

    @classmethod
    def make(cls, **arguments: Any) -> RwareEnv:
        """Return a new warehouse."""
        return RwareEnv(**arguments)
