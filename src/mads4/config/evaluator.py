"""Evaluation and logging: the groups `evaluator` and `logger`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mads4.config.fields import NotNegative, Positive, Rate, Section, Target


class EvaluatorConfig(Section):
    """Playing the trained policy."""

    episodes: Positive = 32
    """Episodes per return target."""
    parallel: Positive = 32
    """Environments played in lockstep; in float64 it does not change the result."""
    workers: NotNegative | None = None
    """Processes that step the environments; 0 for none, null for what suits their number."""
    worker_timeout: Rate = 60.0
    """Seconds without an answer after which a process is replaced and its episodes replayed."""
    targets: Annotated[tuple[Target, ...], Field(strict=False, min_length=1)] = ("1.1*max", "mean")
    """Returns to ask for: numbers, or `[number*]max|mean|min` of the data's returns."""
    sample: bool | None = True
    """Draw actions from the policy; false takes the likeliest, null does as the training's
    evaluation did."""
    message_drop: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that what an agent hands on is lost, at every step anew."""
    seed: NotNegative = 1000
    """Seed of the evaluation, apart from the training's."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the policy; float64 gives the same episodes for any `parallel`."""
    video: bool = False
    """Write a GIF of the first episode."""
    video_steps: Positive | None = None
    """Length of the video in steps; null for the whole episode."""
    baselines: bool = True
    """Also play the random policy and the expert, to normalize scores."""
    baseline_episodes: Positive = 16
    """Episodes of each baseline."""

    def film_problems(self, env: str) -> list[str]:
        """Return a line if a film is wanted of the supervised environment `env`, else nothing."""
        if not self.video or self.workers == 0:
            return []
        return [
            f"evaluator.video: true does not go with env={env}: what is filmed would play outside "
            "of the supervised processes, and could hang for ever; use evaluator.video=false, or "
            "do without supervision altogether, evaluator.workers=0"
        ]


class LoggerConfig(Section):
    """Where metrics go besides `metrics.jsonl`."""

    tensorboard: bool = True
    """Write TensorBoard files."""
