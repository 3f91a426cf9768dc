"""Reading ``summary.json``: what pictures, tables and comparisons all say about a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mads4.errors import UserError

SUMMARY_FILE = "summary.json"

Kind = Literal["random", "data", "policy", "extra", "expert"]
_POLICIES = {"mlp": "feed-forward"}
_BASELINE_WORDS = {
    "random": "random actions",
    "expert": "scripted expert",
    "planner": "cooperative planner",
    "greedy": "greedy expert",
    "focus_fire": "focus fire, kiting",
}


@dataclass(frozen=True)
class Result:
    """How well somebody (a policy, a baseline, the data's author) did."""

    kind: Kind
    label: str
    """Who, in plain words."""
    mean: float
    """Mean return over episodes, in the environment's reward units."""
    low: float | None = None
    high: float | None = None
    """Ends of the mean's 95% interval; of one standard deviation each way for data."""
    iqm: float | None = None
    """Interquartile mean of the returns."""
    score: float | None = None
    """0 is random, 1 the expert."""
    episodes: int | None = None
    win_rate: float | None = None
    """Share of the episodes that was won, where episodes can be."""


def load_summary(run_dir: Path) -> dict[str, Any]:
    """Return the summary of the run in `run_dir`.

    Raises:
        UserError: when there is none, or it is not JSON.
    """
    path = run_dir / SUMMARY_FILE
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} has no {SUMMARY_FILE}: give the directory of a run that was evaluated, "
            f"or evaluate it first with `mads4 evaluate checkpoint={run_dir}`."
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); evaluate the run again.") from error
    return summary


def section(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of the summary, empty when it is absent or null."""
    part = summary.get(name)
    return part if isinstance(part, Mapping) else {}


def number(values: Mapping[str, Any], name: str) -> float | None:
    """Return a number of the summary, None when it is absent or null."""
    value = values.get(name)
    return None if value is None else float(value)


def targets(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the evaluations, one per return asked for, the highest first."""
    found = [
        part
        for part in section(summary, "eval").values()
        if isinstance(part, Mapping) and number(part, "return_mean") is not None
    ]
    return sorted(found, key=lambda part: -(number(part, "target_return") or 0.0))


def reward_definition(summary: Mapping[str, Any]) -> str:
    """Return the name of the reward definition, empty when the summary does not tell."""
    return str(summary.get("reward_definition") or section(summary, "env").get("reward") or "")


def unit(summary: Mapping[str, Any]) -> str:
    """Return in words what a return counts, for example deliveries per 500-step episode."""
    reward = reward_definition(summary)
    limit = section(summary, "env").get("episode_limit")
    episode = f"{limit}-step episode" if limit else "episode"
    if reward == "deliveries":
        return f"deliveries per {episode}"
    return f"team return per {episode}" + (f" (reward: {reward})" if reward else "")


def scenario(summary: Mapping[str, Any]) -> str:
    """Return environment and scenario, for example ``RWARE tiny-2ag``."""
    env = section(summary, "env")
    words = (str(env.get("name", "")).upper(), str(env.get("scenario", "")))
    return " ".join(word for word in words if word)


def policy_name(summary: Mapping[str, Any]) -> str:
    """Return what kind of policy the summary is about, in words."""
    return _POLICIES.get(str(section(summary, "model").get("name")), "MADS4")


def normalized(summary: Mapping[str, Any], mean: float) -> float | None:
    """Return where `mean` lies between random (0) and expert (1), None without both."""
    baselines = section(summary, "baselines")
    random = number(section(baselines, "random"), "return_mean")
    expert = number(section(baselines, "expert"), "return_mean")
    if random is None or expert is None or expert == random:
        return None
    return (mean - random) / (expert - random)


def statistics(
    summary: Mapping[str, Any], kind: Kind, label: str, values: Mapping[str, Any]
) -> Result:
    """Return the result that a part of a summary (``return_mean`` and so on) describes."""
    mean = float(values["return_mean"])
    low, high = values.get("return_ci95") or (None, None)
    score = number(values, "normalized_score")
    episodes = number(values, "episodes")
    return Result(
        kind=kind,
        label=str(values.get("label") or label),
        mean=mean,
        low=low,
        high=high,
        iqm=number(values, "return_iqm"),
        score=normalized(summary, mean) if score is None else score,
        episodes=None if episodes is None else int(episodes),
        win_rate=number(values, "win_rate"),
    )


def results(
    summary: Mapping[str, Any],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    policy: str | None = None,
) -> list[Result]:
    """Return everybody's results in the order they are read: random, data, policy, …, experts.

    A policy that was trained online comes with what it was before.

    Args:
        summary: A ``summary.json``; whatever part is absent is left out.
        extra: Further results by label, each like an entry of ``eval``; for example the same
            network without memory.
        policy: What to call the policy that the summary is about; None for its kind.
    """
    policy = policy or policy_name(summary)
    baselines = {
        name: values
        for name, values in section(summary, "baselines").items()
        if isinstance(values, Mapping) and number(values, "return_mean") is not None
    }
    found = []
    if "random" in baselines:
        found.append(statistics(summary, "random", "random actions", baselines.pop("random")))
    found += _data(summary)
    for values in section(summary, "before").values():
        label = f"{policy} before, asked for {values['target_return']:.3g}"
        found.append(statistics(summary, "extra", label, values))
    for values in targets(summary):
        asked = number(values, "target_return")
        label = policy if asked is None else f"{policy} asked for {asked:.3g}"
        found.append(statistics(summary, "policy", label, values))
    for label, values in (extra or {}).items():
        found.append(statistics(summary, "extra", label, values))
    for name, values in baselines.items():
        label = _BASELINE_WORDS.get(name, name)
        found.append(statistics(summary, "expert", label, values))
    return found


def _data(summary: Mapping[str, Any]) -> list[Result]:
    """Return the data set's result in a list, empty when the summary does not describe it."""
    data = section(summary, "data")
    mean, std = number(data, "return_mean"), number(data, "return_std")
    if mean is None:
        return []
    return [
        Result(
            kind="data",
            label="recorded data",
            mean=mean,
            low=None if std is None else mean - std,
            high=None if std is None else mean + std,
            score=normalized(summary, mean),
            episodes=data.get("episodes"),
            win_rate=number(data, "win_rate"),
        )
    ]
