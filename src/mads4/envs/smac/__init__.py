"""StarCraft micromanagement with StarCraft II, through SMAC: its options and supervision."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import ENVS, EnvSettings
from mads4.envs.smac import installation
from mads4.envs.vector import Supervision
from mads4.settings import Factory, NotNegative, Positive, Rate, Settings, text

Map = Annotated[str, text(r"\w+", "a map's name, for example 2c_vs_64zg")]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _digits(value: object) -> object:
    """Return numbers as text: what YAML makes of an unquoted digit."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class SmacOptions(Settings):
    """The options of SMAC's own environment, with its defaults."""

    step_mul: Positive = 8
    """Game steps per time step."""
    move_amount: Rate = 2.0
    """Distance that a unit moves in a time step."""
    difficulty: Annotated[
        Literal["1", "2", "3", "4", "5", "6", "7", "8", "9", "A"], BeforeValidator(_digits)
    ] = "7"
    """Of the game's own AI: 1 very easy to 7 very hard; 8, 9 and A cheat."""
    game_version: str | None = None
    """Version of the game, for example 4.10.0; null for the newest installed. Results of different
    versions are not comparable."""
    obs_all_health: bool = True
    """Agents see the health of all units in sight (env.observation=native only, as all obs_*)."""
    obs_own_health: bool = True
    """Agents see their own health."""
    obs_last_action: bool = False
    """Agents see the last actions of those in sight."""
    obs_pathing_grid: bool = False
    """Agents see which points around them are walkable."""
    obs_terrain_height: bool = False
    """Agents see the terrain height around them."""
    obs_instead_of_state: bool = False
    """The state is the concatenation of all observations."""
    obs_timestep_number: bool = False
    """Agents see the time step as a share of the episode limit."""
    state_last_action: bool = True
    """The state contains the agents' last actions (env.observation=native only, as all state_*)."""
    state_timestep_number: bool = False
    """The state contains the time step."""
    reward_sparse: bool = False
    """Reward 1 for a victory, -1 for a defeat and 0 otherwise."""
    reward_only_positive: bool = True
    """No penalty for own losses."""
    reward_death_value: Number = 10.0
    """Reward for each enemy killed."""
    reward_win: Number = 200.0
    """Reward for a victory."""
    reward_defeat: Number = 0.0
    """Reward for a defeat."""
    reward_negative_scale: Number = 0.5
    """Weight of the penalty for own losses."""
    reward_scale: bool = True
    """Scale rewards so that the maximum return is reward_scale_rate."""
    reward_scale_rate: Rate = 20.0
    """Maximum return of scaled rewards."""
    replay_dir: str = ""
    """Folder of replays; empty for the game's own."""
    replay_prefix: str = ""
    """Prefix of replay files; empty for the map's name."""
    window_size_x: Positive = 1920
    """Width of the game's window."""
    window_size_y: Positive = 1200
    """Height of the game's window."""
    heuristic_ai: bool = False
    """Replace the policy with SMAC's heuristic."""
    heuristic_rest: bool = False
    """Restrict the heuristic to available actions."""
    debug: bool = False
    """Log observations and actions."""


class SupervisionConfig(Settings):
    """Supervision of the game's processes."""

    processes: Positive | None = None
    """Maximum number of games at a time; null for one per core."""
    reset_timeout: Rate = 180.0
    """Timeout of a reset, in which the game may have to be launched, in seconds."""
    step_timeout: Rate = 60.0
    """Timeout of a step in seconds."""
    memory_mib: Rate | None = 4096.0
    """Memory above which a game is restarted before its next episode; null for no limit."""
    pause: Rate = 1.0
    """Seconds before a lost game is restarted; doubled until an episode is finished."""


@ENVS.register("smac")
class SmacConfig(EnvSettings):
    """StarCraft II, through oxwhirl's SMAC."""

    imports = "simulator"
    name: Literal["smac"] = "smac"
    """Environment family."""
    scenario: Map = "3m"
    """Map."""
    observation: Literal["smac", "mappo", "native"] = "smac"
    """Features: SMAC's, those of MAPPO's wrapper (as in MADT's data), or the simulator's own."""
    simulator: Factory = installation.SIMULATOR
    """Class of the simulator: SMAC's own, or a fork with the same interface."""
    relaunch_every: NotNegative = 0
    """Episodes after which the game is relaunched: 1 makes them reproducible, 0 is never."""
    options: SmacOptions = SmacOptions()
    extra_options: dict[str, Any] = {}
    """Further keyword arguments, for a fork of the simulator."""
    supervision: SupervisionConfig = SupervisionConfig()

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `mads4.envs.smac.env.SmacEnv`."""
        own = self.model_dump(include={"scenario", "observation", "simulator", "relaunch_every"})
        changed = self.options.model_dump(exclude_defaults=True)
        return own | {"options": changed | self.extra_options}

    def supervise(self) -> Supervision:
        """Return how to supervise the games: each has a process of its own."""
        return Supervision(**self.supervision.model_dump())

    def missing(self) -> list[str]:
        """Return what the game lacks here; a fork of the simulator is not checked."""
        if self.simulator != installation.SIMULATOR:
            return []
        return installation.problems(self.scenario, self.options.game_version)

    @classmethod
    def make(cls, **arguments: Any) -> MultiAgentEnv:
        """Return a new game."""
        from mads4.envs.smac.env import SmacEnv

        return SmacEnv(**arguments)
