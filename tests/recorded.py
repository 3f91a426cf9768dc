"""Recordings for tests: single episodes, and where AlberDICE's are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mads4.data.collect import STREAM
from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.rollout import SeededPlan, rollout_behavior
from mads4.types import Episode

ALBERDICE = Path(
    os.environ.get("MADS4_ALBERDICE_DIR")
    or Path(__file__).parents[2] / "shared" / "data" / "alberdice"
)
"""AlberDICE's recordings of penalty-XOR: $MADS4_ALBERDICE_DIR, else beside the checkout."""

needs_alberdice = pytest.mark.skipif(
    not ALBERDICE.is_dir(), reason=f"{ALBERDICE} is no folder; name it in MADS4_ALBERDICE_DIR"
)


def record_episode(env: MultiAgentEnv, behavior: BehaviorPolicy, seed: int, index: int) -> Episode:
    """Return episode `index` of the recording `seed`."""
    (result,) = rollout_behavior(
        SeededPlan(lambda: behavior, seed, STREAM), [env], [index], seed=seed
    )
    assert result.episode is not None
    return result.episode
