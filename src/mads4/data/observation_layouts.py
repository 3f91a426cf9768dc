"""Sizes by which one recognizes who built an environment's observations and states.

The same map of StarCraft is seen in different ways: oxwhirl's SMAC gives what it says itself, while
the wrapper of MAPPO's authors, with which MADT's data were recorded, adds the agent's number, its
own place and more. A policy that learned on one sees nonsense in the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from mads4.envs.smac.features import BUILDERS
from mads4.envs.smac.maps import MAPS
from mads4.types import EnvSpec

MAPPO = "MAPPO's StarCraft wrapper, with which MADT's data were recorded"
OXWHIRL = "SMAC itself (oxwhirl)"

OPTION: Mapping[str, str] = {MAPPO: "env.observation=mappo", OXWHIRL: "env.observation=smac"}
"""Builder → the setting that chooses it."""

_FEATURES = {MAPPO: BUILDERS["mappo"], OXWHIRL: BUILDERS["smac"]}


def builder(env: str, scenario: str, obs_dim: int) -> str | None:
    """Return in words who makes observations of this size, None when that is not known."""
    if env != "smac" or scenario not in MAPS:
        return None
    for words, features in _FEATURES.items():
        if features.sizes(MAPS[scenario])[0] == obs_dim:
            return words
    return None


def recognized(
    scenario: str, n_agents: int, obs_dim: int, state_dim: int, n_actions: int
) -> dict[str, str]:
    """Return what environment gives each agent a state of its own, in these sizes, on a map.

    Returns:
        Its ``name``, ``scenario``, ``reward`` (a recording's is the map's usual one) and
        ``state_encoding``, as in `EnvSpec`; nothing where the sizes are no environment's of ours.
    """
    game = MAPS.get(scenario)
    if game is None or (n_agents, n_actions) != (game.n_agents, game.n_actions):
        return {}
    for encoding, features in BUILDERS.items():
        if features.state_per_agent and features.sizes(game) == (obs_dim, state_dim):
            names = {"name": "smac", "scenario": scenario, "reward": "smac"}
            return names | {"state_encoding": encoding}
    return {}


def explain_sizes(data: EnvSpec, env: EnvSpec, learned: str = "the data") -> str:
    """Return, in sentences, why observations of the data do not fit the environment's.

    Args:
        data: what a policy learns from, or has learned from.
        env: where it is to be played.
        learned: what to call `data`, for example "the policy".

    Returns:
        Both sizes with their builders where these are known; an empty string where the sizes of
        observations and states are the same.
    """
    if (data.obs_dim, data.state_dim) == (env.obs_dim, env.state_dim):
        return ""
    family, scenario = env.name, env.scenario
    sides = []
    for whose, spec in ((f"{learned.capitalize()}'s", data), ("the environment's", env)):
        who = builder(family, scenario, spec.obs_dim)
        sides.append(
            f"{whose} observations have {spec.obs_dim} numbers and states {spec.state_dim}"
            + (f" ({who})" if who else "")
        )
    who = builder(family, scenario, data.obs_dim)
    option = f" ({OPTION[who]})" if who else ""
    other = "data recorded" if learned == "the data" else "a policy trained"
    return (
        f"{', '.join(sides)}. A policy must see in the environment what it saw in the data: use "
        f"the environment with the builder of {learned}'s observations{option}, or {other} "
        "with the environment's."
    )
