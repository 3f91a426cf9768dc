"""The decentralized example takes the same actions as the policy that it was exported from."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import SMALL, SPEC, make_policy
from mads4.envs.registry import EnvFactory
from mads4.experiment import components
from mads4.models import Mads4Config
from mads4.rollout import rollout
from mads4.training import checkpoint

Cli = Callable[..., int]
EXAMPLE = Path(__file__).parents[2] / "examples" / "decentralized.py"
WANTED = 6.0


def same_actions(cli: Cli, source: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Export, play the example and the policy, compare; return the number of steps."""
    assert cli("export", f"checkpoint={source}", "out=agent.onnx") == 0
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "agent.onnx", str(WANTED), "fakes:MatchingEnv"])
    actions = np.array(runpy.run_path(str(EXAMPLE))["actions"])
    payload = checkpoint.load(checkpoint.find(source))
    env = EnvFactory(**payload["env"])()
    policy = components.trained_policy(payload)
    (played,) = rollout(policy, [env], 1, seed=0, target_return=WANTED, record=True)
    assert played.episode is not None
    np.testing.assert_array_equal(actions, played.episode.action)
    assert len(np.unique(actions)) > 1
    return len(actions)


def test_robots_of_a_trained_run(
    cli: Cli, smoke: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = ("model.autoregressive=true", "hydra.run.dir=run")
    assert cli(*smoke, *share) == 0
    assert same_actions(cli, tmp_path / "run", monkeypatch) == 40


@pytest.mark.parametrize(
    "options",
    [
        {"message_delay": 1, "autoregressive": True, "use_global_state": False},
        {"message": "state", "agent_order": "random"},
        {"message": "none"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_other_chains(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    policy = make_policy(**options).float()
    policy.embedding.state_mean.fill_(0.0)  # as for all binary states
    policy.embedding.state_std.fill_(1.0)
    payload = {
        "model": Mads4Config(**SMALL, **options).model_dump(mode="json"),
        "spec": SPEC.to_dict(),
        "policy": policy.state_dict(),
        "env": {"name": "custom", "arguments": {"factory": "fakes:MatchingEnv"}},
    }
    checkpoint.save(tmp_path / "policy.pt", payload)
    assert same_actions(cli, tmp_path / "policy.pt", monkeypatch) >= 3


def test_it_is_short() -> None:
    code = EXAMPLE.read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 55
