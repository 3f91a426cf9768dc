"""The record of a run, ``summary.json``: written once, read by tables, pictures and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mads4.errors import UserError
from mads4.io import write_json

SUMMARY_FILE = "summary.json"

Kind = Literal["random", "data", "policy", "extra", "expert"]
_POLICIES = {"mads4": "MADS4", "mlp": "feed-forward"}
_BASELINES = {
    "random": "random actions",
    "expert": "scripted expert",
    "planner": "cooperative planner",
    "greedy": "greedy expert",
    "focus_fire": "focus fire, kiting",
}


class _Part(BaseModel):
    """Part of a record: whatever is unknown is None, and further entries are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        """Leave out what is null: JSON has no other word for a number that is not finite."""
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if value is not None}


class Figures(_Part):
    """Statistics of the episodes played for one target return, or by one baseline."""

    return_mean: float | None = None
    """Mean undiscounted team return, in the environment's reward units."""
    return_std: float | None = None
    return_iqm: float | None = None
    """Interquartile mean."""
    return_min: float | None = None
    return_max: float | None = None
    return_ci95: tuple[float, float] | None = None
    """95% bootstrap interval of the mean, over episodes."""
    target_return: float | None = None
    """Return-to-go at the start; None for policies that take none."""
    episodes: int | None = None
    length_mean: float | None = None
    """Steps per episode."""
    normalized_score: float | None = None
    """0 is the random policy, 1 the expert."""
    win_rate: float | None = None
    win_rate_ci95: tuple[float, float] | None = None
    environment_steps_per_second: float | None = None
    episodes_replayed: int | None = None
    """Episodes that were lost or broke on the way, and were played again."""
    label: str | None = None


class EnvFigures(_Part):
    """What the record says of the environment: the entries of `mads4.types.EnvSpec`."""

    name: str = ""
    scenario: str = ""
    reward: str = ""
    episode_limit: int | None = None

    @property
    def title(self) -> str:
        """Environment and scenario, for example ``RWARE tiny-2ag``."""
        return " ".join(word for word in (self.name.upper(), self.scenario) if word)

    def unit(self, reward: str | None = None) -> str:
        """Return what a return counts, for example deliveries per 500-step episode."""
        reward = reward or self.reward
        episode = f"{self.episode_limit}-step episode" if self.episode_limit else "episode"
        if reward == "deliveries":
            return f"deliveries per {episode}"
        return f"team return per {episode}" + (f" (reward: {reward})" if reward else "")


class DataFigures(_Part):
    """What the record says of the data set."""

    name: str | None = None
    fingerprint: str | None = None
    quality: str | None = None
    episodes: int | None = None
    return_mean: float | None = None
    return_std: float | None = None
    return_min: float | None = None
    return_max: float | None = None
    win_rate: float | None = None


class TrainFigures(_Part):
    """What the record says of the training."""

    steps: int | None = None
    best_step: int | None = None
    """Step of the best checkpoint, which is the one evaluated."""
    parameters: int | None = None


@dataclass(frozen=True)
class Result:
    """The performance of one policy, one baseline, or the data: a bar or a row."""

    kind: Kind
    label: str
    mean: float
    """Mean return over episodes, in the environment's reward units."""
    low: float | None = None
    high: float | None = None
    """Ends of the mean's 95% interval; one standard deviation each way for data."""
    iqm: float | None = None
    """Interquartile mean of the returns."""
    score: float | None = None
    """0 is random, 1 the expert."""
    episodes: int | None = None
    win_rate: float | None = None
    """Share of episodes won, in environments with wins."""


class RunRecord(_Part):
    """All that ``summary.json`` holds; absent parts are empty."""

    name: str = ""
    seed: int | None = None
    env: EnvFigures = EnvFigures()
    simulator: str | None = None
    """Version of the simulator."""
    model: dict[str, Any] = {}
    """Settings of the group `model`."""
    reward_definition: str | None = None
    actions: str | None = None
    """``sampled`` or ``deterministic``."""
    data: DataFigures = DataFigures()
    eval: dict[str, Figures] = {}
    """Target return, as configured → its evaluation."""
    before: dict[str, Figures] = {}
    """The same for the checkpoint that training began with."""
    baselines: dict[str, Figures] = {}
    """``random`` and ``expert``."""
    train: TrainFigures = TrainFigures()
    time: dict[str, float | None] = {}
    """Seconds (``*_s``) and rates (``*_per_s``)."""
    checkpoint: str | None = None
    """The checkpoint evaluated, if that was not the run's own."""
    training: dict[str, Any] = {}
    """Configuration of the training behind an evaluation."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunRecord:
        """Return the record with these entries.

        Raises:
            pydantic.ValidationError: an entry has the wrong type.
        """
        return cls.model_validate(values)

    @classmethod
    def load(cls, run_dir: Path) -> RunRecord:
        """Return the record of the run in `run_dir`.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = run_dir / SUMMARY_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise UserError(
                f"{run_dir} has no {SUMMARY_FILE}: give the directory of a run that was evaluated, "
                f"or evaluate it first with `mads4 evaluate checkpoint={run_dir}`."
            ) from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            what = f"is not valid JSON ({first['msg']})"
            if first["type"] != "json_invalid":
                what = f"is damaged ({where}: {first['msg']})"
            raise UserError(f"{path} {what}; evaluate the run again.") from error

    def write(self, run_dir: Path) -> None:
        """Write ``summary.json``; entries that were not given are left out."""
        write_json(run_dir / SUMMARY_FILE, self.model_dump(mode="json", exclude_unset=True))

    @property
    def policy(self) -> str:
        """What the policy is called in tables and pictures."""
        name = str(self.model.get("name", "mads4"))
        return _POLICIES.get(name, name)

    @property
    def reward(self) -> str:
        """Name of the reward definition, empty if unknown."""
        return self.reward_definition or self.env.reward

    @property
    def unit(self) -> str:
        """What a return counts, for example deliveries per 500-step episode."""
        return self.env.unit(self.reward)

    @property
    def evaluations(self) -> list[Figures]:
        """The evaluations, one per target return, the highest first."""
        found = [one for one in self.eval.values() if one.return_mean is not None]
        return sorted(found, key=lambda one: -(one.target_return or 0.0))

    def normalized(self, mean: float) -> float | None:
        """Return where `mean` lies between random (0) and expert (1), None without both."""
        low, high = (
            self.baselines.get(role, Figures()).return_mean for role in ("random", "expert")
        )
        if low is None or high is None or low == high:
            return None
        return (mean - low) / (high - low)

    def result(self, kind: Kind, label: str, figures: Figures) -> Result:
        """Return the row or bar of some figures, which must have a mean."""
        assert figures.return_mean is not None
        low, high = figures.return_ci95 or (None, None)
        score = figures.normalized_score
        return Result(
            kind=kind,
            label=figures.label or label,
            mean=figures.return_mean,
            low=low,
            high=high,
            iqm=figures.return_iqm,
            score=self.normalized(figures.return_mean) if score is None else score,
            episodes=figures.episodes,
            win_rate=figures.win_rate,
        )

    def results(
        self, extra: Mapping[str, Figures] | None = None, policy: str | None = None
    ) -> list[Result]:
        """Return all results in reading order: random, data, policy, …, experts.

        A policy trained online comes with what it was before.

        Args:
            extra: further results by label, for example an ablation's.
            policy: what to call the policy; None for its kind.
        """
        policy = policy or self.policy
        played = {k: v for k, v in self.baselines.items() if v.return_mean is not None}
        random = played.pop("random", None)
        found = [] if random is None else [self.result("random", "random actions", random)]
        found += self._data()
        for one in self.before.values():
            label = f"{policy} before, target {one.target_return or 0.0:.3g}"
            found.append(self.result("extra", label, one))
        for one in self.evaluations:
            asked = one.target_return
            label = policy if asked is None else f"{policy}, target {asked:.3g}"
            found.append(self.result("policy", label, one))
        found += [self.result("extra", label, one) for label, one in (extra or {}).items()]
        for name, one in played.items():
            found.append(self.result("expert", _BASELINES.get(name, name), one))
        return found

    def _data(self) -> list[Result]:
        """Return the data set's result in a list, which is empty if nothing is known of it."""
        data = self.data
        mean, std = data.return_mean, data.return_std
        if mean is None:
            return []
        return [
            Result(
                kind="data",
                label="recorded data",
                mean=mean,
                low=None if std is None else mean - std,
                high=None if std is None else mean + std,
                score=self.normalized(mean),
                episodes=data.episodes,
                win_rate=data.win_rate,
            )
        ]
