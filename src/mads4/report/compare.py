"""Several runs side by side, and averaged over seeds where nothing else differs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mads4.errors import UserError
from mads4.evaluation.record import SUMMARY_FILE, RunRecord
from mads4.io import write_text
from mads4.report.table import interval, markdown

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

CONFIG_FILE = "config.yaml"
FAILED_FILE = "FAILED"

_LOG = logging.getLogger(__name__)
_NO_INFLUENCE = (
    *("seed", "name", "resume", "device", "threads", "progress", "logger", "hydra"),
    *("dataset.num_workers", "evaluator.num_workers", "evaluator.worker_timeout"),
    *("evaluator.video", "evaluator.video_steps"),
    *("evaluator.baselines", "evaluator.baseline_episodes"),
)
_ABOUT = ("run", "name", "seed", "scenario", "reward", "fingerprint")
_INTERVALS = {
    "return_mean": ("return_low", "return_high"),
    "win_rate": ("win_rate_low", "win_rate_high"),
}
_NUMBERS = (
    *("return_mean", "return_low", "return_high", "return_iqm", "normalized_score"),
    *("win_rate", "win_rate_low", "win_rate_high", "data_return_mean", "data_win_rate"),
)
_RESULTS = ("target", *_NUMBERS, "episodes", "seeds")
_HEADINGS = {
    "target": "target return",
    "return_mean": "mean return",
    "return_iqm": "IQM",
    "normalized_score": "score",
    "win_rate": "won",
    "data_return_mean": "data's mean",
    "data_win_rate": "data's won",
}
_SHARES = ("win_rate", "data_win_rate")
_ONLY_WHERE_KNOWN = ("normalized_score", "win_rate", "data_return_mean", "data_win_rate")


def compare(runs: Sequence[Path], over_seeds: bool = True, mix: bool = False) -> pd.DataFrame:
    """Return a table of runs, one row per run (or group of seeds) and target return.

    Args:
        runs: Run directories, for example from `find_runs`.
        over_seeds: Average runs that differ in nothing but their seed.
        mix: Average also runs of different data sets or reward definitions, with a warning.

    Returns:
        Columns: ``name``; settings that differ between the runs, under their configuration key;
        ``target``, the statistics, ``episodes``; then ``seeds`` (how many) when averaged, else
        ``seed`` and ``run``.

    Raises:
        UserError: when what would be averaged is not of one reward definition and one data
            set, unless `mix`; or not of one scenario.
    """
    frame = collect(runs)
    return average_over_seeds(frame, mix) if over_seeds else frame


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the evaluated runs at or below `paths`, each once; failed ones are only named.

    Args:
        paths: Run directories, or folders that hold them (a sweep, ``outputs/<name>``).

    Raises:
        UserError: when a path is no directory, or nothing at or below it has been evaluated.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a directory. Give run directories or sweep folders.")
        failed = {file.parent for file in path.rglob(FAILED_FILE)}
        for run in sorted(failed):
            _LOG.warning("%s failed and is left out", run)
        runs = sorted({file.parent for file in path.rglob(SUMMARY_FILE)} - failed)
        if not runs:
            raise UserError(
                f"No {SUMMARY_FILE} at or below {path}: nothing there has been evaluated. "
                f"Evaluate with `mads4 evaluate checkpoint={path}`."
            )
        found.update((run.resolve(), None) for run in runs)
    return list(found)


def collect(runs: Sequence[Path]) -> pd.DataFrame:
    """Return one row per run and target return, in the order of `runs`.

    The settings of an evaluation are its own and those of the training that it evaluates. A
    setting is a column where two runs have different values of it; that some have none (another
    model's, say) is no difference.
    """
    import pandas as pd

    records = [RunRecord.load(run) for run in runs]
    settings = [_settings(run, one) for run, one in zip(runs, records, strict=True)]
    differing = [
        key
        for key in dict.fromkeys(key for one in settings for key in one)
        if len({one[key] for one in settings if key in one}) > 1 and not _without_influence(key)
    ]
    rows = []
    for run, record, one in zip(runs, records, settings, strict=True):
        chosen = {key: one.get(key, "-") for key in differing}
        rows += _rows(run, record, one.get("seed"), chosen)
    columns = ["run", "name", *differing, "seed", "scenario", "reward", "fingerprint"]
    return pd.DataFrame(rows, columns=[*columns, *_RESULTS[:-1]])


def average_over_seeds(frame: pd.DataFrame, mix: bool = False) -> pd.DataFrame:
    """Return the means over seeds of the rows of `collect` that differ in nothing else.

    The interval of several seeds is that of `interval_over_runs`; that of a single run stays what
    its own episodes gave.

    Raises:
        UserError: when rows of one group differ in reward definition or data set and are not to
            be mixed, or in scenario.
    """
    import pandas as pd

    settings = [name for name in frame.columns if name not in (*_ABOUT, *_RESULTS)]
    keys = ["name", *settings]
    rows = []
    for values, group in frame.groupby(keys, sort=False, dropna=False):
        label = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        _require_one(group, "scenario", "scenarios", label)
        _require_one(group, "reward", "reward definitions", label, mix)
        _require_one(group, "fingerprint", "data sets", label, mix)
        for target, same in group.groupby("target", sort=False, dropna=False):
            row = dict(zip(keys, values, strict=True)) | {"target": target}
            rows.append(row | _average(same, label))
    return pd.DataFrame(rows, columns=[*keys, *_RESULTS])


def to_markdown(frame: pd.DataFrame) -> str:
    """Return the table of `compare` as Markdown, ends of an interval in one column."""
    hidden = {"run", "scenario", "reward", "fingerprint"}
    hidden |= {end for ends in _INTERVALS.values() for end in ends}
    hidden |= {name for name in _ONLY_WHERE_KNOWN if frame[name].isna().all()}
    headings: list[str] = []
    columns: list[list[str]] = []
    for name in (name for name in frame.columns if name not in hidden):
        headings.append(_HEADINGS.get(name, name))
        columns.append([_cell(name, value) for value in frame[name]])
        if name in _INTERVALS:
            headings.append("95% interval")
            ends = zip(*(frame[end] for end in _INTERVALS[name]), strict=True)
            columns.append([_interval(name, low, high) for low, high in ends])
    return markdown(headings, list(zip(*columns, strict=True)))


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write the table of `compare` as CSV, atomically."""
    write_text(path, frame.to_csv(index=False))


def _rows(
    run: Path, record: RunRecord, seed: str | None, settings: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return a run's rows, one per target return."""
    about: dict[str, Any] = {
        "run": str(run),
        "name": record.name or run.name,
        "seed": seed or "-",
        "scenario": record.env.title,
        "reward": record.reward,
        "fingerprint": record.data.fingerprint or "",
        **settings,
    }
    rows = []
    for one in record.evaluations:
        result = record.result("policy", "", one)
        numbers = (
            *(result.mean, result.low, result.high, result.iqm, result.score),
            *(result.win_rate, *(one.win_rate_ci95 or (None, None))),
            *(record.data.return_mean, record.data.win_rate),
        )
        values: dict[str, Any] = {
            name: np.nan if value is None else value
            for name, value in zip(_NUMBERS, numbers, strict=True)
        }
        asked = np.nan if one.target_return is None else round(one.target_return, 4)
        rows.append({**about, "target": asked, **values, "episodes": result.episodes or 0})
    return rows


def _average(group: pd.DataFrame, label: str) -> dict[str, Any]:
    """Return the statistics of one group and target, a repeated seed counting once.

    What one of them does not tell, their mean does not either.
    """
    once = group.drop_duplicates("seed", keep="last")
    if len(once) < len(group):
        _LOG.warning("%s: of runs with the same seed only the last counts", label)
    values: dict[str, Any] = {name: float(once[name].mean(skipna=False)) for name in _NUMBERS}
    for name, (low, high) in _INTERVALS.items():
        means = once[name].to_numpy(dtype=float)
        if len(means) > 1 and not np.isnan(means).any():
            ends = interval_over_runs(means)
            values[low], values[high] = np.clip(ends, 0, 1) if name in _SHARES else ends
    return values | {"episodes": int(once["episodes"].sum()), "seeds": len(once)}


def interval_over_runs(means: npt.ArrayLike) -> tuple[float, float]:
    """Return the 95% interval of the mean of a few runs' means (n,), n at least 2.

    Student's, with n - 1 degrees of freedom: it holds the mean 19 times in 20 however few normally
    distributed runs there are, and averages over many episodes nearly are. Resampling three runs
    gives little more than their range, which holds it 3 times in 4.
    """
    from scipy import stats

    values = np.asarray(means, dtype=np.float64)
    middle, error = float(values.mean()), float(stats.sem(values))
    reach = error * float(stats.t.ppf(0.975, len(values) - 1))
    return middle - reach, middle + reach


def _require_one(
    group: pd.DataFrame, column: str, what: str, label: str, mix: bool = False
) -> None:
    """Raise `UserError`, or only warn, when the rows that would be averaged differ in `column`."""
    values = group.drop_duplicates(column)
    if len(values) > 1:
        listed = "; ".join(
            f"{value or 'unknown'} in {run}"
            for value, run in zip(values[column], values["run"], strict=True)
        )
        wrong = f"The runs of {label} are of different {what}, so their mean means nothing"
        if not mix:
            mixed = "" if column == "scenario" else ", or insist with --mix"
            raise UserError(
                f"{wrong}: {listed}. Report them in separate calls, or without averaging over "
                f"seeds{mixed}."
            )
        _LOG.warning("%s: %s", wrong, listed)


def _settings(run: Path, record: RunRecord) -> dict[str, str]:
    """Return the run's resolved configuration, flat: dotted keys, values as written in YAML.

    An evaluation's comes on top of its training's, which its summary holds; null is as there.
    """
    path = run / CONFIG_FILE
    if not path.is_file():
        _LOG.warning("%s has no %s: its settings are unknown", run, CONFIG_FILE)
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if record.training:
        values.pop("checkpoint", None)
    settings = dict(_flat(record.training, ""))
    own = {key: value for key, value in _flat(values, "") if value != "null" or key not in settings}
    return settings | own


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Return ``[("a.b", "1"), …]`` of nested mappings."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return found


def _without_influence(key: str) -> bool:
    """Return whether a setting says nothing about what was tried (or is the seed itself)."""
    return key in _NO_INFLUENCE or key.split(".")[0] in _NO_INFLUENCE


def _interval(name: str, low: float, high: float) -> str:
    """Return an interval as a cell of the table, in the units of the column `name`."""
    if np.isnan(low) or np.isnan(high):
        return ""
    return f"{low:.0%} - {high:.0%}" if name in _SHARES else interval(low, high)


def _cell(name: str, value: Any) -> str:
    """Return a value of the column `name` as a cell of the table."""
    if isinstance(value, float):
        if np.isnan(value):
            return ""
        return f"{value:.0%}" if name in _SHARES else f"{value:.2f}"
    return str(value)
