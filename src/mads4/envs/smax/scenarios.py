"""What can be said about SMAX's battles without importing JAX."""

from __future__ import annotations

from typing import Any

from mads4.errors import UserError, did_you_mean

SCENARIOS = (
    "3m",
    "8m",
    "25m",
    "5m_vs_6m",
    "10m_vs_11m",
    "27m_vs_30m",
    "2s3z",
    "3s5z",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "smacv2_5_units",
    "smacv2_10_units",
    "smacv2_20_units",
)
"""Allies, and enemies where they differ: m marines, s stalkers, z zealots, h hydralisks."""
REWARD = "damage_and_win"
"""Share of the enemies' health taken by the step, plus 1 for the step that wins the battle."""
STOP = 4
"""The one action of a dead unit; 0 to 3 move north, east, south, west, 5 + j attacks enemy j."""
FIXED = ("scenario", "action_type", "observation_type", "use_self_play_reward", "won_battle_bonus")
"""Options of jaxmarl's that would make another environment, or another reward, of it."""


def require_known(scenario: str, options: dict[str, Any]) -> None:
    """Raise `UserError` for an unknown battle, or an option that may not be changed."""
    if scenario not in SCENARIOS:
        raise UserError(
            f"env.scenario: got '{scenario}', expected one of {', '.join(SCENARIOS)}."
            f"{did_you_mean(scenario, SCENARIOS)}"
        )
    for name in FIXED:
        if name in options:
            raise UserError(f"env.options: '{name}' is fixed for env=smax; leave it out.")
