"""SMAC's maps, known without the game: sizes, races and step limits.

The numbers are those of SMAC (Samvelyan et al. 2019, and its package's list of maps).
"""

from __future__ import annotations

from dataclasses import dataclass

OTHER_ACTIONS = 6
"""Actions other than attacks: no-op (dead units), stop, move north, south, east, west."""


@dataclass(frozen=True)
class SmacMap:
    """One scenario."""

    n_agents: int
    n_enemies: int
    episode_limit: int
    races: str
    """Of the agents and of the enemies: P(rotoss), T(erran), Z(erg)."""
    unit_types: int = 0
    """Unit types that observations distinguish; 0 if there is only one."""

    @property
    def n_actions(self) -> int:
        """Number of actions, one attack per enemy."""
        return OTHER_ACTIONS + self.n_enemies

    @property
    def agents_have_shields(self) -> bool:
        """True for Protoss."""
        return self.races[0] == "P"

    @property
    def enemies_have_shields(self) -> bool:
        """True for Protoss."""
        return self.races[1] == "P"


MAPS = {
    "3m": SmacMap(3, 3, 60, "TT"),
    "8m": SmacMap(8, 8, 120, "TT"),
    "25m": SmacMap(25, 25, 150, "TT"),
    "5m_vs_6m": SmacMap(5, 6, 70, "TT"),
    "8m_vs_9m": SmacMap(8, 9, 120, "TT"),
    "10m_vs_11m": SmacMap(10, 11, 150, "TT"),
    "27m_vs_30m": SmacMap(27, 30, 180, "TT"),
    "MMM": SmacMap(10, 10, 150, "TT", unit_types=3),
    "MMM2": SmacMap(10, 12, 180, "TT", unit_types=3),
    "2s3z": SmacMap(5, 5, 120, "PP", unit_types=2),
    "3s5z": SmacMap(8, 8, 150, "PP", unit_types=2),
    "3s5z_vs_3s6z": SmacMap(8, 9, 170, "PP", unit_types=2),
    "3s_vs_3z": SmacMap(3, 3, 150, "PP"),
    "3s_vs_4z": SmacMap(3, 4, 200, "PP"),
    "3s_vs_5z": SmacMap(3, 5, 250, "PP"),
    "1c3s5z": SmacMap(9, 9, 180, "PP", unit_types=3),
    "2m_vs_1z": SmacMap(2, 1, 150, "TP"),
    "corridor": SmacMap(6, 24, 400, "PZ"),
    "6h_vs_8z": SmacMap(6, 8, 150, "ZP"),
    "2s_vs_1sc": SmacMap(2, 1, 300, "PZ"),
    "so_many_baneling": SmacMap(7, 32, 100, "PZ"),
    "bane_vs_bane": SmacMap(24, 24, 200, "ZZ", unit_types=2),
    "2c_vs_64zg": SmacMap(2, 64, 400, "PZ"),
}
"""SMAC's 23 scenarios, in its order."""
