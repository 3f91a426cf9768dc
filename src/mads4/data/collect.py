"""Recording a data set with a behavior policy: parallel, resumable."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mads4.data.shards import Parts, Settings
from mads4.data.store import read_header
from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv, env_spec
from mads4.envs.vector import Incidents
from mads4.errors import UserError
from mads4.rollout import SeededPlan, behavior_vector, rollout_behavior
from mads4.types import Episode

_LOG = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""Interval between writes: the most work that is lost when the process is killed."""

FLUSH_BYTES = 1 << 26
"""Size of finished episodes in memory at which they are written before the interval ends."""

Progress = Callable[[int, int], None]
"""Called with (finished episodes, all episodes); the first call counts earlier recordings."""

STREAM = int.from_bytes(b"data", "big") << 32
"""Added to the seed, so that no evaluation starts from a recorded episode's initial state."""

_ADVICE = (
    "Use fewer workers, if memory ran out (exit code -9), or workers=1 to see what happens; if the "
    "environment is merely slow and has env.supervision, raise its reset_timeout and "
    "step_timeout. Finished episodes are kept."
)


def collect(
    make_env: Callable[[], MultiAgentEnv],
    make_behavior: Callable[[], BehaviorPolicy],
    episodes: int,
    seed: int,
    path: Path | str,
    *,
    behavior: Mapping[str, Any],
    workers: int = 1,
    name: str = "",
    on_progress: Progress | None = None,
    on_incidents: Callable[[Incidents], None] | None = None,
    flush_seconds: float = FLUSH_SECONDS,
) -> Path:
    """Record `episodes` episodes into the data set file `path`; go on where an earlier call ended.

    Episode k depends on (seed, k) and the settings alone, so the file's fingerprint is the same
    for any number of workers and interruptions. Finished episodes are kept in ``<path>.parts``
    until the file is complete; a complete file with the same settings is reused.

    Args:
        make_env: Makes one environment (picklable when `workers` > 1).
        make_behavior: Makes one behavior policy (picklable when `workers` > 1).
        episodes: Number of episodes.
        seed: Root of all randomness, not negative.
        path: The HDF5 file.
        behavior: Describes the behavior and the environment's options completely: two
            recordings with equal spec, seed and description are taken to be the same.
        workers: Processes that play; 0 and 1 play in this one. Environments that one call steps
            (`mads4.rollout.vector.batched`) need no others. If `make_env` has an attribute
            `supervision`, it applies from 1 on: one process for each environment.
        name: Name of the data set; the file's stem when empty.
        on_progress: Called for every finished episode.
        on_incidents: Called at the end with the failures of supervised environments in this call.
        flush_seconds: Time between two writes of finished episodes.

    Returns:
        `path`.

    Raises:
        UserError: when the settings differ from those of what is already at `path`, or an
            episode cannot be recorded.
        KeyboardInterrupt: on Ctrl-C, after the finished episodes are kept. SIGTERM: `SystemExit`.
    """
    path = Path(path)
    if episodes < 1 or seed < 0 or workers < 0:
        raise UserError(
            "A recording needs episodes >= 1, seed >= 0 and workers >= 0, "
            f"got {episodes}, {seed} and {workers}."
        )
    settings = Settings(env_spec(make_env), seed, behavior)
    parts = Parts(path, settings)
    if not _is_complete(path, settings, episodes):
        with parts.locked(), _sigterm_as_exit():
            # Another process may have completed the file while this one waited for the lock.
            if not _is_complete(path, settings, episodes):
                parts.open()
                missing = parts.missing(episodes)
                buffer = _EpisodeBuffer(parts, missing, episodes, on_progress, flush_seconds)
                if missing:
                    plan = SeededPlan(make_behavior, seed, STREAM)
                    _play(make_env, plan, missing, workers, buffer, on_incidents)
                parts.join(path, episodes, name)
    parts.remove()
    return path


def _is_complete(path: Path, settings: Settings, episodes: int) -> bool:
    """Return whether `path` exists; raise `UserError` when it is another recording's."""
    if not path.exists():
        return False
    header = read_header(path)
    there = {"spec": header.spec.to_dict(), "behavior": header.behavior}
    different = settings.differences(there)
    if len(header) != episodes:
        different.append(f"episodes: now {episodes}, there {len(header)}")
    if different:
        raise UserError(
            f"{path} exists and was recorded with other settings ({'; '.join(different)}). "
            "Give another path, or delete it."
        )
    return True


class _EpisodeBuffer:
    """Buffers finished episodes and writes them to parts at intervals."""

    def __init__(
        self,
        parts: Parts,
        missing: list[int],
        total: int,
        on_progress: Progress | None,
        flush_seconds: float,
    ) -> None:
        self._parts = parts
        self._done, self._total = total - len(missing), total
        self._on_progress = on_progress or (lambda done, total: None)
        self._flush_seconds = flush_seconds
        self._episodes: list[Episode] = []
        self._bytes = 0
        self._written_at = time.monotonic()
        self._on_progress(self._done, total)

    def add(self, episode: Episode) -> None:
        """Add a finished episode; write the buffer when it is due."""
        self._episodes.append(episode)
        self._bytes += episode.observation.nbytes + episode.state.nbytes
        self._done += 1
        self._on_progress(self._done, self._total)
        late = time.monotonic() - self._written_at >= self._flush_seconds
        if late or self._bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered episodes."""
        if self._episodes:
            self._parts.write(self._episodes)
            self._episodes, self._bytes = [], 0
        self._written_at = time.monotonic()

    def stop(self) -> None:
        """Write the buffered episodes and log how to continue."""
        self.flush()
        _LOG.warning(
            "Stopped: %d of %d episodes are kept in %s; the same command goes on from there.",
            self._done,
            self._total,
            self._parts.folder,
        )


def _play(
    make_env: Callable[[], MultiAgentEnv],
    plan: SeededPlan,
    missing: list[int],
    workers: int,
    buffer: _EpisodeBuffer,
    on_incidents: Callable[[Incidents], None] | None,
) -> None:
    """Play the missing episodes; finished ones are kept on any error."""
    with closing(behavior_vector(make_env, plan, len(missing), workers)) as vector:
        try:
            for result in rollout_behavior(plan, vector, missing, seed=plan.seed, advice=_ADVICE):
                assert result.episode is not None, "behavior policies are recorded"
                buffer.add(result.episode)
            buffer.flush()
        except BaseException:
            buffer.stop()
            raise
        finally:
            if workers > 0 and getattr(make_env, "supervision", None) is not None:
                _report(vector.incidents, on_incidents)


def _report(incidents: Incidents, on_incidents: Callable[[Incidents], None] | None) -> None:
    if incidents != Incidents():
        counts = (f"{name} {count}" for name, count in incidents.to_dict().items())
        _LOG.warning("environments: %s", ", ".join(counts))
    if on_incidents is not None:
        on_incidents(incidents)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Raise `SystemExit` on SIGTERM; only the main thread can set signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
