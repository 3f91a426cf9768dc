"""Features of hand-made battlefields, with every number worked out, and their sizes on all maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mads4.envs.smac.features import (
    BUILDERS,
    mappo_observation,
    mappo_state,
    smac_observation,
    smac_state,
)
from mads4.envs.smac.maps import MAPS, SmacMap
from mads4.envs.smac.units import Battlefield, Units


def units(
    position: list[tuple[float, float]],
    health: list[float],
    shield: list[float] | None = None,
    cooldown: list[float] | None = None,
    kind: list[int] | None = None,
) -> Units:
    count = len(health)
    return Units(
        position=np.array(position),
        health=np.array(health),
        shield=None if shield is None else np.array(shield),
        cooldown=np.array(cooldown or [0.0] * count),
        kind=np.array(kind or [0] * count),
    )


def marines() -> Battlefield:
    """Two agents, 3 and 4 apart (distance 5), against two enemies; without shields.

    Enemy 0 stands 6 east of agent 0: in its sight of 10 and in reach; from agent 1 it is (3, -4)
    away, at distance 5. Enemy 1 is 12 north of agent 0, out of sight; (−3, 8) from agent 1, at
    √73 ≈ 8.544, in sight but not in reach. The map's center is (16, 16), its extent 32 × 16.
    """
    available = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 0, 1, 1, 0, 1, 0]], dtype=bool)
    return Battlefield(
        agents=units([(8, 8), (11, 12)], [1.0, 0.5], cooldown=[0.2, 0.4]),
        enemies=units([(14, 8), (8, 20)], [0.75, 0.25]),
        available_actions=available,
        last_action=np.eye(8)[[4, 6]],
        sight=np.array([10.0, 10.0]),
        center=np.array([16.0, 16.0]),
        extent=np.array([32.0, 16.0]),
        unit_types=0,
    )


D = np.sqrt(73.0) / 10.0
ACTION = np.eye(8)


def test_smacs_observation_number_by_number() -> None:
    expected = [
        # move; enemy 0; enemy 1 (not in sight); agent 1; own health
        [1, 0, 1, 1, *[1, 0.6, 0.6, 0.0, 0.75], *[0] * 5, *[1, 0.5, 0.3, 0.4, 0.5], 1.0],
        [
            *[0, 1, 1, 0, 1, 0.5, 0.3, -0.4, 0.75],
            *[0, D, -0.3, 0.8, 0.25, 1, 0.5, -0.3, -0.4, 1, 0.5],
        ],
    ]
    np.testing.assert_allclose(smac_observation(marines()), expected, rtol=1e-6, atol=1e-7)


def test_smacs_state_number_by_number() -> None:
    expected = [
        *[1.0, 0.2, -8 / 32, -8 / 16],  # health, cooldown, x, y
        *[0.5, 0.4, -5 / 32, -4 / 16],
        *[0.75, -2 / 32, -8 / 16],
        *[0.25, -8 / 32, 4 / 16],
        *ACTION[4],
        *ACTION[6],
    ]
    np.testing.assert_allclose(smac_state(marines()), [expected], rtol=1e-6)


def test_the_wrappers_observation_number_by_number() -> None:
    first = [
        *[1, 0.5, 0.3, 0.4, 0.5, *ACTION[6]],  # agent 1
        *[1, 0.6, 0.6, 0.0, 0.75],  # enemy 0
        *[0] * 5,  # enemy 1
        *[1, 0, 1, 1],  # move
        *[1, 0, 0, 0, 1.0, *ACTION[4]],  # itself
        *[1, 0],  # which agent
    ]
    second = [
        *[1, 0.5, -0.3, -0.4, 1.0, *ACTION[4]],
        *[1, 0.5, 0.3, -0.4, 0.75],
        *[0, D, -0.3, 0.8, 0.25],
        *[0, 1, 1, 0],
        *[1, 0, 0, 0, 0.5, *ACTION[6]],
        *[0, 1],
    ]
    found = mappo_observation(marines())
    np.testing.assert_allclose(found, [first, second], rtol=1e-6, atol=1e-7)


def test_the_wrappers_state_number_by_number() -> None:
    first = [
        # agent 1: in sight, distance, x, y, cooldown, health, map x, y, last action
        *[1, 0.5, 0.3, 0.4, 0.4, 0.5, -5 / 32, -4 / 16, *ACTION[6]],
        # enemies: in reach, distance, x, y, in sight, health, map x, y
        *[1, 0.6, 0.6, 0.0, 1, 0.75, -2 / 32, -8 / 16],
        *[0, 1.2, 0.0, 1.2, 0, 0.25, -8 / 32, 4 / 16],
        *[1, 0, 1, 1],
        *[1, 0, 0, 0, 1.0, -8 / 32, -8 / 16, *ACTION[4]],
        *[1, 0],
    ]
    second = [
        *[1, 0.5, -0.3, -0.4, 0.2, 1.0, -8 / 32, -8 / 16, *ACTION[4]],
        *[1, 0.5, 0.3, -0.4, 1, 0.75, -2 / 32, -8 / 16],
        *[0, D, -0.3, 0.8, 1, 0.25, -8 / 32, 4 / 16],
        *[0, 1, 1, 0],
        *[1, 0, 0, 0, 0.5, -5 / 32, -4 / 16, *ACTION[6]],
        *[0, 1],
    ]
    found = mappo_state(marines())
    np.testing.assert_allclose(found, [first, second], rtol=1e-6, atol=1e-7)


def protoss() -> Battlefield:
    """A stalker (kind 0) and a zealot (kind 1), 3 apart, against a zealot that stands on the first.

    The enemy side has no shields here, so that the two sides' blocks differ in width.
    """
    return Battlefield(
        agents=units([(4, 4), (4, 7)], [0.5, 1.0], [0.25, 0.75], [0.1, 0.3], [0, 1]),
        enemies=units([(4, 4)], [0.8], kind=[1]),
        available_actions=np.ones((2, 7), dtype=bool),
        last_action=np.zeros((2, 7)),
        sight=np.array([6.0, 6.0]),
        center=np.array([4.0, 5.0]),
        extent=np.array([10.0, 10.0]),
        unit_types=2,
    )


def test_shields_and_kinds_come_where_both_packages_put_them() -> None:
    field = protoss()
    move, nothing = [1] * 4, [0] * 7
    np.testing.assert_allclose(
        smac_observation(field)[0],
        [*move, *[1, 0, 0, 0, 0.8, 0, 1], *[1, 0.5, 0, 0.5, 1, 0.75, 0, 1], *[0.5, 0.25, 1, 0]],
    )
    np.testing.assert_allclose(
        smac_state(field)[0, :18],
        np.array(
            [
                *[0.5, 0.1, 0.0, -0.1, 0.25, 1, 0],
                *[1.0, 0.3, 0.0, 0.2, 0.75, 0, 1],
                *[0.8, 0.0, -0.1, 0],
            ]
        ),
        atol=1e-7,
    )
    np.testing.assert_allclose(
        mappo_observation(field)[0],
        [
            *[1, 0.5, 0, 0.5, 1.0, 0.75, 0, 1, *nothing],
            *[1, 0, 0, 0, 0.8, 0, 1],
            *move,
            *[1, 0, 0, 0, 0.5, 0.25, 1, 0, *nothing],
            *[1, 0],
        ],
    )
    np.testing.assert_allclose(
        mappo_state(field)[0],
        [
            *[1, 0.5, 0, 0.5, 0.3, 1.0, 0.75, 0.0, 0.2, 0, 1, *nothing],  # kind after the place
            *[1, 0, 0, 0, 1, 0.8, 0, 1, 0.0, -0.1],  # kind before the place
            *move,
            *[1, 0, 0, 0, 0.5, 0.25, 0.0, -0.1, 1, 0, *nothing],
            *[1, 0],
        ],
        atol=1e-7,
    )


def test_the_dead_are_zero_but_for_their_number() -> None:
    field = marines()
    field = replace(field, agents=replace(field.agents, health=np.array([1.0, 0.0])))
    assert not smac_observation(field)[1].any()
    assert not smac_observation(field)[0, 14:19].any(), "nor do the others see them"
    for wrapped in (mappo_observation(field), mappo_state(field)):
        np.testing.assert_array_equal(wrapped[1, :-2], 0.0)
        np.testing.assert_array_equal(wrapped[1, -2:], [0, 1])
    assert not mappo_state(field)[0, :16].any()
    state = smac_state(field)[0]
    assert not state[4:8].any()
    assert state[14 + 8 + 6] == 1.0, "what the dead did is in SMAC's state"


def test_sight_ends_before_its_range() -> None:
    field = marines()
    there = replace(field, sight=np.array([5.0, 5.0 + 1e-9]))
    assert not smac_observation(there)[0, 14:19].any()
    assert smac_observation(there)[1, 14:19].any()


@pytest.mark.parametrize("scenario", MAPS)
def test_sizes_on_every_map(scenario: str) -> None:
    """By the formulas that the packages' own size functions follow."""
    game = MAPS[scenario]
    n, m, a = game.n_agents, game.n_enemies, game.n_actions
    ours, theirs = int(game.agents_have_shields), int(game.enemies_have_shields)
    k = game.unit_types
    assert BUILDERS["smac"].sizes(game) == (
        4 + m * (5 + theirs + k) + (n - 1) * (5 + ours + k) + 1 + ours + k,
        n * (4 + ours + k) + m * (3 + theirs + k) + n * a,
    )
    assert BUILDERS["mappo"].sizes(game) == (
        (n - 1) * (5 + ours + k + a) + m * (5 + theirs + k) + 4 + 5 + ours + k + a + n,
        (n - 1) * (8 + ours + k + a) + m * (8 + theirs + k) + 4 + 7 + ours + k + a + n,
    )


def test_the_published_sizes_are_met() -> None:
    published = {
        "3m": (64, 81),
        "5m_vs_6m": (124, 156),
        "2c_vs_64zg": (478, 675),
        "6h_vs_8z": (172, 213),
        "corridor": (346, 435),
    }
    assert {name: BUILDERS["mappo"].sizes(MAPS[name]) for name in published} == published
    published = {
        "3m": (30, 48),
        "2s3z": (80, 120),
        "5m_vs_6m": (55, 98),
        "3s5z": (128, 216),
        "6h_vs_8z": (78, 140),
        "2c_vs_64zg": (332, 342),
        "corridor": (156, 282),
    }
    assert {name: BUILDERS["smac"].sizes(MAPS[name]) for name in published} == published


def test_a_lonely_agent_has_no_others() -> None:
    game = SmacMap(1, 2, 10, "TT")
    assert BUILDERS["mappo"].sizes(game) == (10 + 4 + 5 + 8 + 1, 16 + 4 + 7 + 8 + 1)
