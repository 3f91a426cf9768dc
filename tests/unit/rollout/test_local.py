"""Environments in this process."""

from __future__ import annotations

from fake_env import MatchingEnv
from mads4.behavior.noise import Random
from mads4.envs.protocol import BrokenEpisodeError
from mads4.rollout import SeededPlan, rollout_behavior
from mads4.types import TimeStep


class BrokenOnce(MatchingEnv):
    """The first reset fails."""

    broken = False

    def reset(self, seed: int) -> TimeStep:
        if not self.broken:
            self.broken = True
            raise BrokenEpisodeError("did not start")
        return super().reset(seed)


def test_an_episode_that_breaks_is_repeated_by_its_own_environment() -> None:
    plan = SeededPlan(Random, 1)
    broken = {
        r.index: r for r in rollout_behavior(plan, [BrokenOnce(), BrokenOnce()], range(4), seed=1)
    }
    whole = {r.index: r for r in rollout_behavior(plan, [MatchingEnv()], range(4), seed=1)}
    assert broken == whole
    assert [broken[index].restarts for index in range(4)] == [1, 1, 0, 0]
