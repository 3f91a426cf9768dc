"""Single recorded episodes, for tests."""

from __future__ import annotations

from mads4.data.collect import STREAM
from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.rollout import SeededPlan, rollout_behavior
from mads4.types import Episode


def record_episode(env: MultiAgentEnv, behavior: BehaviorPolicy, seed: int, index: int) -> Episode:
    """Return episode `index` of the recording `seed`."""
    (result,) = rollout_behavior(
        SeededPlan(lambda: behavior, seed, STREAM), [env], [index], seed=seed
    )
    assert result.episode is not None
    return result.episode
