"""Playing episodes: one engine for training, evaluation and recording."""

from mads4.rollout.local import BehaviorEpisode, BehaviorPlan, LocalVector, SeededPlan
from mads4.rollout.recorder import EpisodeResult
from mads4.rollout.rollout import (
    Callback,
    Policy,
    StepEvent,
    one_thread,
    rollout,
    rollout_behavior,
    threads,
)
from mads4.rollout.vector import behavior_vector, make_vector

__all__ = [
    "BehaviorEpisode",
    "BehaviorPlan",
    "Callback",
    "EpisodeResult",
    "LocalVector",
    "Policy",
    "SeededPlan",
    "StepEvent",
    "behavior_vector",
    "make_vector",
    "one_thread",
    "rollout",
    "rollout_behavior",
    "threads",
]
