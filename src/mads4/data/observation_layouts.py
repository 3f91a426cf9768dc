"""Recognizing the encoding of observations and states by their sizes.

The same map of StarCraft has several encodings: oxwhirl's SMAC has its own, while the wrapper of
MAPPO's authors, with which MADT's data were recorded, adds the agent's index, its own position and
more. A policy trained on one encoding cannot use the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from mads4.envs.smac.features import BUILDERS
from mads4.envs.smac.maps import MAPS
from mads4.types import EnvSpec

MAPPO = "MAPPO's StarCraft wrapper, with which MADT's data were recorded"
OXWHIRL = "SMAC itself (oxwhirl)"

OPTION: Mapping[str, str] = {MAPPO: "env.observation=mappo", OXWHIRL: "env.observation=smac"}
"""Encoding → the setting that selects it."""

_FEATURES = {MAPPO: BUILDERS["mappo"], OXWHIRL: BUILDERS["smac"]}


def builder(env: str, scenario: str, obs_dim: int) -> str | None:
    """Return a description of the encoding with observations of this size, None if unknown."""
    if env != "smac" or scenario not in MAPS:
        return None
    for words, features in _FEATURES.items():
        if features.sizes(MAPS[scenario])[0] == obs_dim:
            return words
    return None


def recognized(
    scenario: str, n_agents: int, obs_dim: int, state_dim: int, n_actions: int
) -> dict[str, str]:
    """Return which environment has these sizes on a map, with a state for each agent.

    Returns:
        Its ``name``, ``scenario``, ``reward`` (a recording's is the map's usual one) and
        ``state_encoding``, as in `EnvSpec`; empty where the sizes are unknown.
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
        data: spec of the training data.
        env: spec of the environment that the policy is to act in.
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
