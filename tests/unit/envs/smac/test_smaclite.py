"""SMAClite as an environment: exact ints in, SMAC's step limit, clear errors if it is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import make_env
from mads4.envs.requirements import PACKAGES
from mads4.envs.smaclite import SmacliteEnv
from mads4.errors import UserError

ATTACK, STOP = np.full(5, 6), np.full(5, 1)


@pytest.fixture
def smaclite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package whose import registers maps."""
    package = tmp_path / "smaclite"
    package.mkdir()
    (package / "__init__.py").write_text("import smaclite_stand_in\nsmaclite_stand_in.register()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "smaclite", raising=False)
    yield
    for key in [key for key in gymnasium.registry if key.startswith("smaclite/")]:
        del gymnasium.registry[key]
    sys.modules.pop("smaclite", None)


@pytest.mark.usefixtures("smaclite")
def test_it_is_an_environment() -> None:
    env = make_env("smaclite", scenario="2s3z")
    assert isinstance(env, MultiAgentEnv)
    spec = env.spec
    assert (spec.name, spec.scenario, spec.reward) == ("smaclite", "2s3z", "smac")
    assert (spec.n_agents, spec.n_actions, spec.obs_dim, spec.state_dim) == (5, 11, 80, 120)
    assert (spec.episode_limit, spec.version) == (120, "smaclite unknown")
    first, again = env.reset(3), env.reset(3)
    assert first.observation.shape == (5, 80)
    assert first.state.shape == (1, 120)
    assert first.available_actions.sum(-1).tolist() == [2] * 5
    np.testing.assert_array_equal(first.observation, again.observation)
    assert env.render().shape == (4, 4, 3)
    env.close()


@pytest.mark.usefixtures("smaclite")
def test_a_battle_begins_as_if_none_had_been_before() -> None:
    env = SmacliteEnv("2s3z")
    first = env.reset(3)
    played = env.step(STOP)
    assert played.state.sum() == 5, "the state holds each agent's last action"
    again = env.reset(3)
    np.testing.assert_array_equal(first.state, again.state)
    np.testing.assert_array_equal(again.state, np.zeros((1, 120)))
    np.testing.assert_array_equal(played.state, env.step(STOP).state)


@pytest.mark.usefixtures("smaclite")
def test_a_victory_ends_it() -> None:
    env = SmacliteEnv("2s3z")
    env.reset(0)
    now = env.step(ATTACK)
    assert not now.done
    now = env.step(ATTACK)
    assert (now.terminated, now.truncated, now.reward) == (True, False, 20.0)
    assert now.metrics == {"win": 1.0}


@pytest.mark.usefixtures("smaclite")
def test_smacs_limit_cuts_it() -> None:
    env = SmacliteEnv("2s3z")
    for _ in range(2):  # the clock restarts with every episode
        env.reset(0)
        cut = [env.step(STOP).truncated for _ in range(120)]
        assert cut == [False] * 119 + [True]
    own = SmacliteEnv("arena", episode_limit=2, options={"toughness": 10})
    own.reset(0)
    assert not own.step(ATTACK).done
    last = own.step(ATTACK)
    assert (last.terminated, last.truncated) == (True, False), "won at the very limit"


@pytest.mark.usefixtures("smaclite")
def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"no map 'MMM3'; it has 2s3z, MMM2, arena\..*'MMM2'"):
        SmacliteEnv("MMM3")
    with pytest.raises(UserError, match=r"env\.episode_limit: required; SMAC has no map 'arena'"):
        SmacliteEnv("arena")
    with pytest.raises(UserError, match=r"env\.options: SMAClite rejects .*speed"):
        SmacliteEnv("2s3z", options={"speed": 2})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import sklearn_of_which_there_is_none", "package sklearn_of_which_there_is_none, which"),
        ("raise OSError('libspatialindex')", "cannot be imported (OSError: libspatialindex)"),
    ],
)
@pytest.mark.usefixtures("smaclite")
def test_import_errors_come_with_the_command(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "smaclite" / "__init__.py").write_text(line)
    with pytest.raises(UserError) as error:
        SmacliteEnv("2s3z")
    assert words in str(error.value)
    assert PACKAGES["smaclite"].install in str(error.value)


def test_a_missing_package_comes_with_the_command() -> None:
    with pytest.raises(UserError) as error:
        SmacliteEnv("2s3z")
    assert PACKAGES["smaclite"].install in str(error.value)
