"""What is asked of whoever looks after environments that may hang, die or grow: game processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

LONGEST_PAUSE = 60.0
"""Seconds that a process waits at most before it takes the place of one that was lost."""


@dataclass(frozen=True)
class Supervision:
    """How environments are looked after, each in a process of its own.

    An attribute ``supervision`` of whatever makes the environments (`EnvFactory`) asks for it.
    """

    processes: int | None = None
    """At most so many environments at a time; None for one per core."""
    reset_timeout: float = 180.0
    """Seconds for the beginning of an episode, in which a game may have to be launched."""
    step_timeout: float = 60.0
    """Seconds for a step."""
    memory_mib: float | None = None
    """Memory of a process and all that it started, from which on it is replaced before its next
    episode; None for any."""
    pause: float = 1.0
    """Seconds before a lost process is replaced, doubled each time that no episode was finished in
    between, up to `LONGEST_PAUSE`."""

    def delay(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row."""
        return min(self.pause * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE) if failures else 0.0


@dataclass
class Incidents:
    """How often processes were replaced and episodes thrown away."""

    processes_lost: int = 0
    """They died or gave no answer."""
    episodes_broken: int = 0
    """The environment itself said that an episode is worth nothing."""
    planned_restarts: int = 0
    """Processes replaced between episodes because of their memory."""

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

    def since(self, before: Incidents) -> Incidents:
        """Return what has been added to `before`."""
        return Incidents(
            **{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        )
