"""Playing a policy and its baselines, as the group ``evaluator`` configures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mads4.behavior.registry import make_behavior
from mads4.config import EvaluatorConfig
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import Incidents, VectorEnv
from mads4.errors import UserError
from mads4.evaluation.metrics import Evaluation, RandomPolicy, play_behavior
from mads4.evaluation.record import Figures
from mads4.evaluation.video import VideoRecorder, write_gif
from mads4.logging import Advance, progress_bar
from mads4.rollout import EpisodeResult, Policy, one_thread, rollout
from mads4.rollout.processes import keep_freed_memory
from mads4.rollout.vector import make_vector

_LOG = logging.getLogger(__name__)

VIDEO = "episode.gif"
EXPERTS = {
    "rware": ("planner", "cooperative planner"),
    "smax": ("focus_fire", "focus fire, kiting"),
}
"""Environment → the behavior policy whose return is 1 on the normalized scale, and its label."""


class Evaluator:
    """Plays the same episodes (starts and random numbers) for all policies that are compared.

    Args:
        make_env: makes the environments.
        settings: episodes, seed, targets …
        device: where the policy computes.
        progress: show progress bars.

    Raises:
        UserError: a video of supervised environments.
    """

    def __init__(
        self,
        make_env: EnvFactory,
        settings: EvaluatorConfig,
        device: torch.device,
        progress: bool,
    ) -> None:
        problems = settings.video_problems(make_env.name) if make_env.supervision else []
        if problems:  # the environment may be a checkpoint's, which no configuration names
            raise UserError(problems[0])
        self._make_env = make_env
        self._settings = settings
        self._device = device
        self._progress = progress

    def baselines(self) -> dict[str, Figures]:
        """Return the results of the random policy and, where there is one, of the expert."""
        players = {"random": ("random", "random actions")}
        if self._make_env.name in EXPERTS:
            players["expert"] = EXPERTS[self._make_env.name]
        results: dict[str, Figures] = {}
        for role, (name, label) in players.items():
            total = self._settings.baseline_episodes
            with progress_bar(label, total, self._progress) as advance:
                supervised = self._make_env.supervision is not None and name == "random"
                play = self._play_random if supervised else partial(self._play_behavior, name)
                results[role] = play(advance).model_copy(update={"label": label})
        return results

    def _play_behavior(self, name: str, advance: Advance) -> Figures:
        """Return the statistics of a behavior policy, played in this process."""
        total, seed = self._settings.baseline_episodes, self._settings.seed
        with closing(self._make_env()) as env:
            episodes = play_behavior(make_behavior(name), env, total, seed=seed)
            return Evaluation.of(episodes, on_episode=tell(advance)).summary()

    def _play_random(self, advance: Advance) -> Figures:
        """Return the statistics of random actions in supervised environments."""
        total, seed = self._settings.baseline_episodes, self._settings.seed
        with closing(self._environments()) as envs:
            episodes = rollout(RandomPolicy(), envs, total, seed=seed, target_return=0.0)
            evaluation = Evaluation.of(episodes, on_episode=tell(advance))
            return self._with_incidents(evaluation.summary(), envs, Incidents())

    def policy(
        self,
        policy: Policy,
        targets: Mapping[str, float],
        baselines: Mapping[str, Figures],
        run_dir: Path | None = None,
    ) -> dict[str, Figures]:
        """Return the policy's statistics for every target return.

        A video of the first one goes to `run_dir`; without `run_dir` there is none.
        """
        settings = self._settings
        scale = {
            f"{role}_return": float(figures.return_mean or 0.0)
            for role, figures in baselines.items()
        }
        video = VideoRecorder(settings.video_steps) if settings.video and run_dir else None
        results: dict[str, Figures] = {}
        with ExitStack() as stack:
            stack.enter_context(one_thread())
            keep_freed_memory()
            envs = stack.enter_context(closing(self._environments()))
            for name, target in targets.items():
                what, before = f"target return {target:.3g}", replace(envs.incidents)
                with progress_bar(what, settings.episodes, self._progress) as advance:
                    episodes = rollout(
                        policy,
                        envs,
                        settings.episodes,
                        seed=settings.seed,
                        target_return=target,
                        deterministic=bool(settings.deterministic),
                        device=self._device,
                        message_dropout=settings.message_dropout,
                        callback=video if not results else None,
                    )
                    evaluation = Evaluation.of(episodes, target, tell(advance))
                results[name] = self._with_incidents(evaluation.summary(**scale), envs, before)
        if video is not None and run_dir is not None:
            write_gif(run_dir / VIDEO, video.frames, fps=10)
            _LOG.info("video: %s", run_dir / VIDEO)
        return results

    def _with_incidents(self, figures: Figures, envs: VectorEnv, before: Incidents) -> Figures:
        """Return `figures` with the failures of supervised environments since `before`."""
        found = envs.incidents.since(before)
        if found != Incidents():
            counts = (f"{name} {count}" for name, count in found.to_dict().items())
            _LOG.warning("environments: %s", ", ".join(counts))
        return figures.model_copy(update=found.to_dict() if self._make_env.supervision else {})

    def _environments(self) -> VectorEnv:
        """Return the environments; the rendered one stays in this process."""
        settings = self._settings
        return make_vector(
            self._make_env,
            min(settings.num_envs, settings.episodes),
            workers=settings.num_workers,
            timeout=settings.worker_timeout,
            local=int(settings.video),
        )


def tell(advance: Advance) -> Callable[[EpisodeResult], None]:
    """Return a callback that advances a progress bar with every episode."""
    returns: list[float] = []

    def on_episode(played: EpisodeResult) -> None:
        returns.append(played.episode_return)
        advance(len(returns), f"mean return {sum(returns) / len(returns):.1f}")

    return on_episode
