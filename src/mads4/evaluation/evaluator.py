"""Playing a policy and its yardsticks as the configuration's ``evaluator`` says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mads4.behavior.registry import make_behavior
from mads4.config import EvaluatorConfig
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import Incidents, VectorEnv
from mads4.errors import UserError
from mads4.evaluation.metrics import Evaluation, RandomPolicy, play_behavior
from mads4.progress import Advance, progress_bar
from mads4.report.video import with_header, write_gif
from mads4.rollout import EpisodeResult, Policy, StepEvent, one_thread, rollout
from mads4.rollout.processes import keep_freed_memory
from mads4.rollout.vector import make_vector

_LOG = logging.getLogger(__name__)

VIDEO = "episode.gif"
EXPERTS = {
    "rware": ("planner", "cooperative planner"),
    "smax": ("focus_fire", "focus fire, kiting"),
}
"""Environment family → the behavior that stands for 1 on the normalized scale, and its label."""


class Evaluator:
    """Plays episodes that are the same for everybody who is compared.

    Args:
        make_env: makes the environments.
        settings: episodes, seed, targets …
        device: where the policy computes.
        progress: show progress bars.

    Raises:
        UserError: a film is wanted of supervised environments.
    """

    def __init__(
        self,
        make_env: EnvFactory,
        settings: EvaluatorConfig,
        device: torch.device,
        progress: bool,
    ) -> None:
        problems = settings.film_problems(make_env.name) if make_env.supervision else []
        if problems:  # the environment may be a checkpoint's, which no configuration names
            raise UserError(problems[0])
        self._make_env = make_env
        self._settings = settings
        self._device = device
        self._progress = progress

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Return the results of the random policy and, where there is one, of the expert."""
        players = {"random": ("random", "random actions")}
        if self._make_env.name in EXPERTS:
            players["expert"] = EXPERTS[self._make_env.name]
        results: dict[str, dict[str, Any]] = {}
        for role, (name, label) in players.items():
            total = self._settings.baseline_episodes
            with progress_bar(label, total, self._progress) as advance:
                supervised = self._make_env.supervision is not None and name == "random"
                play = self._play_random if supervised else partial(self._play_behavior, name)
                results[role] = play(advance) | {"label": label}
        return results

    def _play_behavior(self, name: str, advance: Advance) -> dict[str, Any]:
        """Return what a behavior policy comes to, in this process."""
        total, seed = self._settings.baseline_episodes, self._settings.seed
        with closing(self._make_env()) as env:
            episodes = play_behavior(make_behavior(name), env, total, seed=seed)
            return Evaluation.of(episodes, on_episode=tell(advance)).summary()

    def _play_random(self, advance: Advance) -> dict[str, Any]:
        """Return what random actions come to, under the environments' supervision."""
        total, seed = self._settings.baseline_episodes, self._settings.seed
        with closing(self._environments()) as envs:
            episodes = rollout(RandomPolicy(), envs, total, seed=seed, target_return=0.0)
            evaluation = Evaluation.of(episodes, on_episode=tell(advance))
            return evaluation.summary() | self._incidents(envs, Incidents())

    def policy(
        self,
        policy: Policy,
        targets: Mapping[str, float],
        baselines: Mapping[str, Mapping[str, Any]],
        run_dir: Path | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Return the policy's results for every return target; film the first if wanted.

        Films go to `run_dir`; without it there are none.
        """
        settings = self._settings
        scale = {
            f"{role}_return": float(values["return_mean"]) for role, values in baselines.items()
        }
        camera = VideoRecorder(settings.video_steps) if settings.video and run_dir else None
        results: dict[str, dict[str, Any]] = {}
        with ExitStack() as stack:
            stack.enter_context(one_thread())
            keep_freed_memory()
            envs = stack.enter_context(closing(self._environments()))
            for name, target in targets.items():
                what, before = f"asked for {target:.3g}", replace(envs.incidents)
                with progress_bar(what, settings.episodes, self._progress) as advance:
                    episodes = rollout(
                        policy,
                        envs,
                        settings.episodes,
                        seed=settings.seed,
                        target_return=target,
                        deterministic=settings.sample is False,
                        device=self._device,
                        message_dropout=settings.message_drop,
                        callback=camera if not results else None,
                    )
                    evaluation = Evaluation.of(episodes, target, tell(advance))
                results[name] = evaluation.summary(**scale) | self._incidents(envs, before)
        if camera is not None and run_dir is not None:
            write_gif(run_dir / VIDEO, camera.frames, fps=10)
            _LOG.info("video: %s", run_dir / VIDEO)
        return results

    def _incidents(self, envs: VectorEnv, before: Incidents) -> dict[str, int]:
        """Return how often supervised environments have failed since `before`."""
        found = envs.incidents.since(before)
        if found != Incidents():
            counts = (f"{name} {count}" for name, count in found.to_dict().items())
            _LOG.warning("environments: %s", ", ".join(counts))
        return found.to_dict() if self._make_env.supervision else {}

    def _environments(self) -> VectorEnv:
        """Return the environments; the one that is filmed stays in this process."""
        settings = self._settings
        return make_vector(
            self._make_env,
            min(settings.parallel, settings.episodes),
            workers=settings.workers,
            timeout=settings.worker_timeout,
            local=int(settings.video),
        )


class VideoRecorder:
    """Films one episode, the first.

    Args:
        steps: length of the film; None for the whole episode.
    """

    def __init__(self, steps: int | None) -> None:
        self._steps = steps
        self._pictures: list[npt.NDArray[np.uint8]] = []

    @property
    def frames(self) -> list[npt.NDArray[np.uint8]]:
        """The pictures, all as wide as the widest: metrics may appear on the way."""
        width = max((picture.shape[1] for picture in self._pictures), default=0)
        return [
            np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
            for picture in self._pictures
        ]

    def __call__(self, moment: StepEvent) -> None:
        """Take a picture, with a strip above it that says how the episode stands."""
        if moment.index != 0 or (self._steps is not None and moment.step > self._steps):
            return
        values = {"step": f"{moment.step} / {moment.env.spec.episode_limit}"}
        values |= {name: f"{value:g}" for name, value in moment.metrics.items()}
        values["still asked for"] = f"{moment.return_to_go:.1f}"
        self._pictures.append(with_header(moment.env.render(), values))


def tell(advance: Advance) -> Callable[[EpisodeResult], None]:
    """Return what moves a progress bar on for every episode played."""
    returns: list[float] = []

    def on_episode(played: EpisodeResult) -> None:
        returns.append(played.episode_return)
        advance(len(returns), f"mean return {sum(returns) / len(returns):.1f}")

    return on_episode
