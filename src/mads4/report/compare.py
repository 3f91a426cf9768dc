"""Several runs side by side, and averaged over seeds where nothing else differs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mads4.atomic import write_text
from mads4.errors import UserError
from mads4.report import summary as read
from mads4.report.table import interval, markdown

if TYPE_CHECKING:
    import pandas as pd

CONFIG_FILE = "config.yaml"
FAILED_FILE = "FAILED"

_LOG = logging.getLogger(__name__)
_NO_INFLUENCE = ("seed", "name", "resume", "device", "threads", "progress", "logger", "hydra")
_ABOUT = ("run", "name", "seed", "scenario", "reward", "fingerprint")
_NUMBERS = ("return_mean", "return_low", "return_high", "return_iqm", "normalised_score")
_RESULTS = ("target", *_NUMBERS, "episodes", "seeds")
_HEADINGS = {
    "target": "asked for",
    "return_mean": "mean return",
    "return_iqm": "IQM",
    "normalised_score": "score",
}


def compare(paths: Sequence[Path], over_seeds: bool = True, mix: bool = False) -> pd.DataFrame:
    """Return a table of runs, one row per run (or group of seeds) and return asked for.

    Args:
        paths: Run directories, or folders that hold them (a sweep, ``outputs/<name>``).
        over_seeds: Average runs that differ in nothing but their seed.
        mix: Average also runs of different data sets or reward definitions, with a warning.

    Returns:
        Columns: ``name``; settings that differ between the runs, under their configuration key;
        ``target``, the statistics, ``episodes``; then ``seeds`` (how many) when averaged, else
        ``seed`` and ``run``.

    Raises:
        UserError: when nothing is found, or what would be averaged is not of one reward
            definition and one data set, unless `mix`; or not of one scenario.
    """
    frame = collect(find_runs(paths))
    return average_over_seeds(frame, mix) if over_seeds else frame


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the evaluated runs at or below `paths`, each once; failed ones are reported."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a directory. Give run directories or sweep folders.")
        runs = sorted(file.parent for file in path.rglob(read.SUMMARY_FILE))
        for failed in sorted(path.rglob(FAILED_FILE)):
            _LOG.warning("%s failed and is left out", failed.parent)
        if not runs:
            raise UserError(
                f"No {read.SUMMARY_FILE} at or below {path}: nothing there has been evaluated. "
                f"Evaluate with `mads4 evaluate checkpoint={path}`."
            )
        found.update((run.resolve(), None) for run in runs)
    return list(found)


def collect(runs: Sequence[Path]) -> pd.DataFrame:
    """Return one row per run and return asked for, in the order of `runs`."""
    import pandas as pd

    settings = [_settings(run) for run in runs]
    differing = [
        key
        for key in dict.fromkeys(key for one in settings for key in one)
        if len({one.get(key) for one in settings}) > 1 and not _without_influence(key)
    ]
    rows = []
    for run, one in zip(runs, settings, strict=True):
        chosen = {key: one.get(key, "-") for key in differing}
        rows += _rows(run, read.load_summary(run), one.get("seed"), chosen)
    columns = ["run", "name", *differing, "seed", "scenario", "reward", "fingerprint"]
    return pd.DataFrame(rows, columns=[*columns, *_RESULTS[:-1]])


def average_over_seeds(frame: pd.DataFrame, mix: bool = False) -> pd.DataFrame:
    """Return the means over seeds of the rows of `collect` that differ in nothing else.

    The interval of several seeds is a 95% bootstrap interval of the mean of the runs' means; that
    of a single run stays what its own episodes gave.

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
    """Return the table of `compare` as Markdown, intervals in one column."""
    hidden = ("run", "scenario", "reward", "fingerprint", "return_low", "return_high")
    names = [name for name in frame.columns if name not in hidden]
    place = names.index("return_mean") + 1
    headings = [_HEADINGS.get(name, name) for name in names]
    headings.insert(place, "95% interval")
    rows = []
    for _, row in frame.iterrows():
        cells = [_cell(row[name]) for name in names]
        cells.insert(place, interval(_known(row["return_low"]), _known(row["return_high"])))
        rows.append(cells)
    return markdown(headings, rows)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write the table of `compare` as CSV, atomically."""
    write_text(path, frame.to_csv(index=False))


def _rows(
    run: Path, summary: Mapping[str, Any], seed: str | None, settings: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return a run's rows, one per return asked for."""
    about: dict[str, Any] = {
        "run": str(run),
        "name": str(summary.get("name") or run.name),
        "seed": seed or "-",
        "scenario": read.scenario(summary),
        "reward": read.reward_definition(summary),
        "fingerprint": str(read.section(summary, "data").get("fingerprint") or ""),
        **settings,
    }
    rows = []
    for part in read.targets(summary):
        result = read.statistics(summary, "policy", "", part)
        numbers = (result.mean, result.low, result.high, result.iqm, result.score)
        values: dict[str, Any] = {
            name: np.nan if value is None else value
            for name, value in zip(_NUMBERS, numbers, strict=True)
        }
        target = read.number(part, "target_return")
        asked = np.nan if target is None else round(target, 4)
        rows.append({**about, "target": asked, **values, "episodes": result.episodes or 0})
    return rows


def _average(group: pd.DataFrame, label: str) -> dict[str, Any]:
    """Return the statistics of one group and target, a repeated seed counting once."""
    once = group.drop_duplicates("seed", keep="last")
    if len(once) < len(group):
        _LOG.warning("%s: of runs with the same seed only the last counts", label)
    means = once["return_mean"].to_numpy(dtype=float)
    values: dict[str, Any] = {name: float(once[name].mean()) for name in _NUMBERS}
    if len(means) > 1:
        values["return_low"], values["return_high"] = bootstrap_interval(means)
    return values | {"episodes": int(once["episodes"].sum()), "seeds": len(once)}


def bootstrap_interval(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean of `values` (n,), n at least 2."""
    from scipy import stats

    found = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


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


def _settings(run: Path) -> dict[str, str]:
    """Return the run's resolved configuration, flat: dotted keys, values as written in YAML."""
    path = run / CONFIG_FILE
    if not path.is_file():
        _LOG.warning("%s has no %s: its settings are unknown", run, CONFIG_FILE)
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    return dict(_flat(values or {}, ""))


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
    return key.split(".")[0] in _NO_INFLUENCE


def _known(value: float) -> float | None:
    """Return None for the NaN that stands for an unknown number."""
    return None if np.isnan(value) else float(value)


def _cell(value: Any) -> str:
    """Return a value as a table's cell."""
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.2f}"
    return str(value)
