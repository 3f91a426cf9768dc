"""A stand-in for `smac.env.StarCraft2Env` that fights without the game, and fails on command.

It starts a process, as the game would, whose number it leaves in ``<folder>/games/``, and its own
in ``<folder>/players/``. Faults come once each (``times`` over, if given) in all the processes that
share the folder; where given, only to games launched with ``seed``, and only in the step ``at``:

- ``hang`` and ``hang_reset`` sleep; ``die`` kills the process that asked for a step;
- ``crash`` takes the game away, so that the step raises what a lost connection raises;
- ``protocol`` is SMAC's answer to a protocol error, (0, True, {}), with a new game launched;
- ``restart`` is a game that was launched again while an episode began;
- ``lie`` tells of a victory over living enemies, ``deny`` conceals one;
- ``leak`` (no times) lets the game grow by so many MiB an episode.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fake_env import first_to_claim
from mads4.envs.smac.features import BUILDERS
from mads4.envs.smac.maps import MAPS, SmacMap
from mads4.envs.smac.units import read_battlefield

ENEMY_HEALTH, AGENT_HEALTH, AGENT_DAMAGE, ENEMY_DAMAGE = 30.0, 45.0, 15.0, 6.0

GAME = """
import sys
held = []
for line in sys.stdin:
    held.append(bytearray(int(line) << 20))
    held[-1][::4096] = bytes([1]) * len(held[-1][::4096])
    print(flush=True)
"""


class ConnectionLostError(Exception):
    """What pysc2 raises when the game is gone."""

    __module__ = "pysc2.lib.protocol"


class StarCraft2Env:
    def __init__(
        self,
        map_name: str = "3m",
        seed: int | None = None,
        continuing_episode: bool = False,
        game_version: str | None = None,
        reward_sparse: bool = False,
        obs_timestep_number: bool = False,
        folder: str | None = None,
        faults: list[dict[str, Any]] | None = None,
        enemy_damage: float = ENEMY_DAMAGE,
        splash: int = 1,
    ) -> None:
        game: SmacMap = MAPS[map_name]
        self.map_name, self.map_type = map_name, "marines"
        self.n_agents, self.n_enemies = game.n_agents, game.n_enemies
        self.n_actions, self.episode_limit = game.n_actions, game.episode_limit
        self.shield_bits_ally = int(game.agents_have_shields)
        self.shield_bits_enemy = int(game.enemies_have_shields)
        self.unit_type_bits = game.unit_types
        self.medivac_id = 0
        self.map_x = self.map_y = self.max_distance_x = self.max_distance_y = 32
        self.force_restarts = 0
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        self._rng, self._seed = np.random.default_rng(seed), seed
        self._continuing, self._sparse = continuing_episode, reward_sparse
        self._late, self._enemy_damage = obs_timestep_number, enemy_damage
        self._splash = splash
        self._folder = Path(folder) if folder else None
        self._faults = faults or []
        self._game: subprocess.Popen[str] | None = None

    # --- what the adapter asks for -------------------------------------------------------------

    def get_env_info(self) -> dict[str, int]:
        obs_dim, state_dim = BUILDERS["smac"].sizes(MAPS[self.map_name])
        return {
            "n_agents": self.n_agents,
            "n_actions": self.n_actions,
            "obs_shape": obs_dim + self._late,
            "state_shape": state_dim,
            "episode_limit": self.episode_limit,
        }

    def reset(self) -> None:
        if self._game is None:
            self._launch()
        if self._fault("hang_reset"):
            time.sleep(1000.0)
        if self._fault("restart"):
            self._launch_again()
        for fault in self._faults:
            if fault["how"] == "leak":
                self._grow(fault["mib"])
        self._time = 0
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        self.agents = self._line_up(self.n_agents, 13.0, AGENT_HEALTH, self.shield_bits_ally)
        self.enemies = self._line_up(self.n_enemies, 17.0, ENEMY_HEALTH, self.shield_bits_enemy)

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert all(type(action) is int for action in actions)
        available = self.get_avail_actions()
        assert all(available[i][action] for i, action in enumerate(actions))
        self._time += 1
        self._fail()
        if self._fault("protocol"):
            self._launch_again()
            return 0, True, {}
        self.last_action = np.eye(self.n_actions)[actions]
        before = sum(unit.health for unit in self.enemies.values()), self._dead(self.enemies)
        for number, action in enumerate(actions):
            self._act(self.agents[number], action)
        for _ in range(self.n_enemies - self._dead(self.enemies)):
            self._strike()
        dead = self._dead(self.enemies)
        reward = before[0] - sum(unit.health for unit in self.enemies.values())
        reward += 10.0 * (dead - before[1])
        fallen = self._dead(self.agents)
        won = dead == self.n_enemies and fallen < self.n_agents
        over = won or fallen == self.n_agents
        info = {"battle_won": won, "dead_allies": fallen, "dead_enemies": dead}
        if won:
            reward += 200.0
        if not over and self._time >= self.episode_limit:
            over = True
            if self._continuing:
                info["episode_limit"] = True
        if not won and self._fault("lie"):
            info["battle_won"] = over = True
        if won and self._fault("deny"):
            info["battle_won"] = False
        if self._sparse:
            return float(over) * (1.0 if won else -1.0), over, info
        best = self.n_enemies * (10.0 + ENEMY_HEALTH) + 200.0
        return reward / (best / 20.0), over, info

    def get_avail_actions(self) -> list[list[int]]:
        return [self._available(unit) for unit in self.agents.values()]

    def get_obs(self) -> list[np.ndarray]:
        field = read_battlefield(self, np.array(self.get_avail_actions(), dtype=bool))
        rows = BUILDERS["smac"].observation(field)
        late = [self._time / self.episode_limit] * self._late
        return [np.append(row, late) for row in rows]

    def get_state(self) -> np.ndarray:
        field = read_battlefield(self, np.array(self.get_avail_actions(), dtype=bool))
        return BUILDERS["smac"].state(field)[0]

    def unit_sight_range(self, agent: int) -> float:
        return 9.0

    def unit_max_cooldown(self, unit: Any) -> float:
        return 15.0

    def unit_max_shield(self, unit: Any) -> float:
        return 50.0

    def get_unit_type_id(self, unit: Any, ally: bool) -> int:
        return int(unit.unit_type)

    def render(self, mode: str) -> np.ndarray:
        assert mode == "rgb_array"
        return np.zeros((4, 4, 3), np.uint8)

    def close(self) -> None:
        if self._game is not None:
            self._game.kill()
            self._game.communicate()
            self._game = None

    # --- the battle ----------------------------------------------------------------------------

    def _line_up(self, count: int, x: float, health: float, shields: int) -> dict[int, Any]:
        return {
            number: SimpleNamespace(
                pos=SimpleNamespace(
                    x=x + float(self._rng.random()), y=15.0 + 2.0 * number / max(count - 1, 1)
                ),
                health=health,
                health_max=health,
                shield=25.0 * shields,
                weapon_cooldown=0.0,
                energy=0.0,
                unit_type=number % max(self.unit_type_bits, 1),
            )
            for number in range(count)
        }

    def _available(self, unit: Any) -> list[int]:
        if unit.health <= 0:
            return [1] + [0] * (self.n_actions - 1)
        moves = [unit.pos.y < 30.0, unit.pos.y > 2.0, unit.pos.x < 30.0, unit.pos.x > 2.0]
        targets = [
            enemy.health > 0 and np.hypot(enemy.pos.x - unit.pos.x, enemy.pos.y - unit.pos.y) <= 6.0
            for enemy in self.enemies.values()
        ]
        return [0, 1, *map(int, moves), *map(int, targets)]

    def _act(self, unit: Any, action: int) -> None:
        if action in (2, 3):
            unit.pos.y += 2.0 if action == 2 else -2.0
        elif action in (4, 5):
            unit.pos.x += 2.0 if action == 4 else -2.0
        elif action >= 6:
            for number in range(action - 6, min(action - 6 + self._splash, self.n_enemies)):
                target = self.enemies[number]
                target.health = max(0.0, target.health - AGENT_DAMAGE)
            unit.weapon_cooldown = 15.0

    def _strike(self) -> None:
        living = [unit for unit in self.agents.values() if unit.health > 0]
        if living and self._rng.random() < 0.5:
            victim = living[int(self._rng.integers(len(living)))]
            share = self._enemy_damage * min(1.0, 3.0 / self.n_enemies)
            victim.health = max(0.0, victim.health - share)

    @staticmethod
    def _dead(units: dict[int, Any]) -> int:
        return sum(unit.health <= 0 for unit in units.values())

    # --- the game and its faults ---------------------------------------------------------------

    def _launch(self) -> None:
        leaks = any(fault["how"] == "leak" for fault in self._faults)
        command = [sys.executable, "-c", GAME] if leaks else ["sleep", "1000"]
        self._game = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._folder is not None:
            for folder, pid in (("games", self._game.pid), ("players", os.getpid())):
                (self._folder / folder).mkdir(exist_ok=True)
                (self._folder / folder / str(pid)).touch()

    def _launch_again(self) -> None:
        self.close()
        self._launch()
        self.force_restarts += 1

    def _grow(self, mib: int) -> None:
        assert self._game is not None
        assert self._game.stdin is not None
        assert self._game.stdout is not None
        self._game.stdin.write(f"{mib}\n")
        self._game.stdin.flush()
        self._game.stdout.readline()

    def _fail(self) -> None:
        if self._fault("hang"):
            time.sleep(1000.0)
        if self._fault("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault("crash"):
            assert self._game is not None
            self._game.kill()
            raise ConnectionLostError("the game closed the connection")
        if self._fault("bug"):
            raise ZeroDivisionError("a bug")

    def _fault(self, how: str) -> bool:
        """Return whether it is time for a fault, one that has not come often enough yet."""
        for fault in self._faults:
            now = {"how": how, "at": self._time_or_zero(), "seed": self._seed}
            if any(fault.get(name, value) != value for name, value in now.items()):
                continue
            for life in range(fault.get("times", 1)):
                assert self._folder is not None
                if first_to_claim(self._folder / f"{how}-{life}"):
                    return True
        return False

    def _time_or_zero(self) -> int:
        return getattr(self, "_time", 0)
