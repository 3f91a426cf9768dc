"""What both builders have in common, on battlefields of any kind."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mads4.envs.smac.features import (
    mappo_observation,
    mappo_state,
    smac_observation,
    smac_state,
)
from mads4.envs.smac.maps import MAPS, SmacMap
from mads4.envs.smac.units import Battlefield, Units


def side(count: int, shields: bool, kinds: int, rng: np.random.Generator) -> Units:
    return Units(
        position=rng.uniform(0.0, 32.0, (count, 2)),
        health=rng.uniform(0.0, 1.0, count) * (rng.random(count) < 0.8),
        shield=rng.random(count) if shields else None,
        cooldown=rng.random(count),
        kind=rng.integers(max(kinds, 1), size=count),
    )


@st.composite
def battlefields(draw: st.DrawFn) -> tuple[SmacMap, Battlefield]:
    game = MAPS[draw(st.sampled_from(sorted(MAPS)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, actions = game.n_agents, game.n_actions
    field = Battlefield(
        agents=side(n, game.agents_have_shields, game.unit_types, rng),
        enemies=side(game.n_enemies, game.enemies_have_shields, game.unit_types, rng),
        available_actions=rng.random((n, actions)) < 0.5,
        last_action=np.eye(actions)[rng.integers(actions, size=n)],
        sight=np.full(n, 9.0),
        center=np.array([16.0, 16.0]),
        extent=np.array([30.0, 28.0]),
        unit_types=game.unit_types,
    )
    return game, field


@given(battlefields())
def test_the_wrapper_shows_all_that_smac_shows(drawn: tuple[SmacMap, Battlefield]) -> None:
    game, field = drawn
    n, m, actions = game.n_agents, game.n_enemies, game.n_actions
    ours, theirs = game.agents_have_shields, game.enemies_have_shields
    enemy, other = 5 + theirs + game.unit_types, 5 + ours + game.unit_types
    smac, mappo = smac_observation(field), mappo_observation(field)
    others, rest = np.split(mappo, [(n - 1) * (other + actions)], axis=1)
    others = others.reshape(n, n - 1, other + actions)[..., :other].reshape(n, (n - 1) * other)
    enemies, moves, itself = np.split(rest, [m * enemy, m * enemy + 4], axis=1)
    np.testing.assert_array_equal(
        smac, np.concatenate([moves, enemies, others, itself[:, 4:other]], axis=1)
    )


@given(battlefields())
def test_dead_units_do_not_affect_features(drawn: tuple[SmacMap, Battlefield]) -> None:
    """Where they fell and what they held does not affect any feature."""
    _, field = drawn
    moved = []
    for units in (field.agents, field.enemies):
        dead = ~units.alive
        position = np.where(dead[:, None], 7.0, units.position)
        shield = None if units.shield is None else np.where(dead, 0.5, units.shield)
        cooldown = np.where(dead, 0.5, units.cooldown)
        moved.append(Units(position, units.health, shield, cooldown, units.kind))
    other = Battlefield(
        *moved,
        field.available_actions,
        field.last_action,
        field.sight,
        field.center,
        field.extent,
        field.unit_types,
    )
    for build in (smac_observation, smac_state, mappo_observation, mappo_state):
        np.testing.assert_array_equal(build(field), build(other))


@given(battlefields())
def test_all_numbers_are_finite_single_precision(drawn: tuple[SmacMap, Battlefield]) -> None:
    for build in (smac_observation, smac_state, mappo_observation, mappo_state):
        values = build(drawn[1])
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
