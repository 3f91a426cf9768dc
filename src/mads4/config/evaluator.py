"""Evaluation and logging: the groups `evaluator` and `logger`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mads4.config.fields import Target
from mads4.settings import NotNegative, Positive, Rate, Settings


class EvaluatorConfig(Settings):
    """Playing the trained policy."""

    episodes: Positive = 32
    """Episodes per return target."""
    num_envs: Positive = 32
    """Environments stepped together; in float64 it does not change the result."""
    num_workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for a number that suits them."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
    target_returns: Annotated[tuple[Target, ...], Field(strict=False, min_length=1)] = (
        "1.1*max",
        "mean",
    )
    """Return-to-go at the start: numbers, or `[number*]max|mean|min` of the data's returns."""
    deterministic: bool | None = False
    """Take the most likely actions instead of sampling; null as in the training's evaluation."""
    message_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a message is dropped, drawn per agent and step."""
    seed: NotNegative = 1000
    """Seed of the evaluation, apart from the training's."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the policy; float64 gives the same episodes for any `num_envs`."""
    video: bool = False
    """Write a GIF of the first episode."""
    video_steps: Positive | None = None
    """Length of the video in steps; null for the whole episode."""
    baselines: bool = True
    """Also play the random policy and the expert, to normalize scores."""
    baseline_episodes: Positive = 16
    """Episodes of each baseline."""

    def video_problems(self, env: str) -> list[str]:
        """Return a line if a video of the supervised environment `env` is configured."""
        if not self.video or self.num_workers == 0:
            return []
        return [
            f"evaluator.video: true does not go with env={env}: the rendered game would play "
            "outside the supervised processes and could hang forever; use evaluator.video=false, "
            "or turn supervision off with evaluator.num_workers=0"
        ]


class LoggerConfig(Settings):
    """Where metrics go besides `metrics.jsonl`."""

    tensorboard: bool = True
    """Write TensorBoard files."""
