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
    """Version of the game, as 4.10.0; null for the newest installed. They do not compare."""
    obs_all_health: bool = True
    """Agents see the health of all units in sight (env.observation=native only, as all obs_*)."""
    obs_own_health: bool = True
    """Agents see their own health."""
    obs_last_action: bool = False
    """Agents see the last actions of those in sight."""
    obs_pathing_grid: bool = False
    """Agents see where one can go around them."""
    obs_terrain_height: bool = False
    """Agents see how high the ground is around them."""
    obs_instead_of_state: bool = False
    """The state is all agents' observations."""
    obs_timestep_number: bool = False
    """Agents see how much of the time has passed."""
    state_last_action: bool = True
    """The state has the agents' last actions (env.observation=native only, as all state_*)."""
    state_timestep_number: bool = False
    """The state has the time."""
    reward_sparse: bool = False
    """1 for a victory, -1 for a defeat, nothing else."""
    reward_only_positive: bool = True
    """Losses cost nothing."""
    reward_death_value: Number = 10.0
    """For each enemy killed."""
    reward_win: Number = 200.0
    """For a victory."""
    reward_defeat: Number = 0.0
    """For a defeat."""
    reward_negative_scale: Number = 0.5
    """Weight of own losses, where they count."""
    reward_scale: bool = True
    """Divide rewards so that the best return is reward_scale_rate."""
    reward_scale_rate: Rate = 20.0
    """Return of a perfect battle."""
    replay_dir: str = ""
    """Where replays are saved; empty for the game's own folder."""
    replay_prefix: str = ""
    """How the files of replays begin; empty for the map's name."""
    window_size_x: Positive = 1920
    """Width of the game's window."""
    window_size_y: Positive = 1200
    """Height of the game's window."""
    heuristic_ai: bool = False
    """Let SMAC's heuristic play instead of the policy."""
    heuristic_rest: bool = False
    """Let the heuristic take available actions only."""
    debug: bool = False
    """Log what is seen and done."""


class SupervisionConfig(Settings):
    """How the processes of a game are looked after."""

    processes: Positive | None = None
    """Games at a time, at most; null for one per core."""
    reset_timeout: Rate = 180.0
    """Seconds for the beginning of an episode, in which the game may have to be launched."""
    step_timeout: Rate = 60.0
    """Seconds for a step."""
    memory_mib: Rate | None = 4096.0
    """Memory from which on a game is replaced before its next episode; null for any."""
    pause: Rate = 1.0
    """Seconds before a lost game is replaced; doubled as long as no episode is finished."""


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
    """Class of the simulator; a fork with the same interface may take its place."""
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
