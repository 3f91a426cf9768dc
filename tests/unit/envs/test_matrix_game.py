"""Matrix games: rewards, pictures and errors."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from mads4.behavior.registry import make_behavior
from mads4.envs.matrix_game import PENALTY_XOR, MatrixGame
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import EnvFactory, make_env
from mads4.errors import UserError
from mads4.evaluation.metrics import play_behavior

THREE = np.arange(27.0).reshape(3, 3, 3)


@pytest.mark.parametrize(
    ("actions", "reward"), [((0, 0), 0.0), ((0, 1), 1.0), ((1, 0), 1.0), ((1, 1), -2.0)]
)
def test_the_default_is_penalty_xor(actions: tuple[int, int], reward: float) -> None:
    game = MatrixGame()
    game.reset(0)
    now = game.step(np.array(actions))
    assert now.reward == reward
    assert now.metrics == {"coordinated": float(reward == 1.0)}
    assert game.spec.episode_limit == 50


@pytest.mark.parametrize("payoff", [PENALTY_XOR, THREE, [1.0, 2.0, 3.0], np.ones((2,) * 5)])
def test_every_step_has_the_sizes_of_the_spec(payoff: Any) -> None:
    game = MatrixGame(payoff, episode_limit=4)
    assert isinstance(game, MultiAgentEnv)
    spec = game.spec
    assert spec.n_agents == np.ndim(payoff)
    assert spec.n_actions == np.shape(payoff)[0]
    now = game.reset(3)
    for step in range(5):
        assert now.observation.shape == (spec.n_agents, spec.obs_dim)
        assert now.observation.dtype == np.float32
        assert now.state.shape == (1, spec.state_dim)
        assert now.available_actions.shape == (spec.n_agents, spec.n_actions)
        assert now.available_actions.all()
        assert not now.terminated
        assert now.truncated == (step == 4)
        now = game.step(np.zeros(spec.n_agents, np.int64))


def test_rewards_are_entries_of_the_table() -> None:
    game = MatrixGame(THREE)
    joint = np.array(list(np.ndindex(3, 3, 3)))
    np.testing.assert_array_equal(game.rewards(joint), THREE.ravel())
    assert game.rewards(joint.reshape(3, 9, 3)).shape == (3, 9)
    with pytest.raises(ValueError, match="invalid entry"):
        game.step(np.array([0, -1, 0]))


def test_axes_of_unequal_length_leave_actions_unavailable() -> None:
    game = MatrixGame([[1, 2, 3], [4, 5, 6]])
    assert game.spec.scenario == "2x3"
    available = game.reset(0).available_actions
    assert available.tolist() == [[True, True, False], [True, True, True]]


def test_every_episode_is_alike_and_starts_anew() -> None:
    game = MatrixGame(episode_limit=2)
    for seed in (0, 1):
        game.reset(seed)
        assert not game.step(np.array([0, 1])).done
        assert game.step(np.array([0, 1])).truncated


def test_a_random_player_earns_the_tables_mean() -> None:
    game = MatrixGame(episode_limit=4000)
    (outcome,) = play_behavior(make_behavior("random"), game, 1, seed=0)
    assert outcome.length == 4000
    assert abs(outcome.episode_return / 4000) < 0.06
    assert abs(outcome.metrics["coordinated"] / 4000 - 0.5) < 0.03


def test_the_rewards_name_tells_tables_apart() -> None:
    xor = MatrixGame().spec
    assert MatrixGame([[0, 1], [1, -2]]).spec == xor
    assert MatrixGame([[-0.0, 1], [1, -2]]).spec == xor
    assert MatrixGame([[0, 1], [1, -3]]).spec.differences(xor)[0].startswith("reward: 'payoff-")


@pytest.mark.parametrize(
    ("payoff", "what"),
    [
        ([[0, 1], [1]], "rows differ"),
        ([[0, "1"], [1, 2]], "not all finite numbers"),
        ([[0, None], [1, 2]], "not all finite numbers"),
        ([[0, float("nan")], [1, 2]], "not all finite numbers"),
        ([[True, False], [False, True]], "not all finite numbers"),
        ([[], []], "no joint action"),
        (3, "no joint action"),
    ],
)
def test_tables_that_are_none(payoff: Any, what: str) -> None:
    with pytest.raises(UserError, match=rf"env.payoff: got .*{what}; expected nested lists"):
        MatrixGame(payoff)


def test_an_episode_has_a_step() -> None:
    with pytest.raises(UserError, match=r"env.episode_limit: got 0"):
        MatrixGame(episode_limit=0)


@pytest.mark.parametrize(
    "payoff", [PENALTY_XOR, THREE, [1.0, 2.0], np.ones((2,) * 4), np.eye(300), [[1, 1]]]
)
def test_the_picture_marks_the_last_joint_action(payoff: Any) -> None:
    game = MatrixGame(payoff)
    game.reset(0)
    before = game.render()
    assert before.dtype == np.uint8
    assert before.ndim == 3
    assert max(before.shape) <= 400
    game.step(np.zeros(game.spec.n_agents, np.int64))
    first = game.render()
    assert first.shape == before.shape
    assert (first != before).any()
    last = np.array(np.shape(payoff)) - 1
    game.step(last)
    moved = game.render()
    ys, xs = np.nonzero((first != before).any(axis=-1))
    height, width = before.shape[:2]
    assert ys.mean() < height / 2 or xs.mean() < width / 2
    if np.size(payoff) > 2:
        assert (moved != first).any()
    game.reset(1)
    np.testing.assert_array_equal(game.render(), before)


def test_the_registry_makes_them_in_any_process() -> None:
    factory = EnvFactory("matrix_game", {"payoff": [[1, 0], [0, 1]], "episode_limit": 7})
    game = pickle.loads(pickle.dumps(factory))()
    assert isinstance(game, MatrixGame)
    assert game.spec.episode_limit == 7
    with pytest.raises(UserError, match=r"Did you mean 'matrix_game'"):
        make_env("matrix-game")
