"""Comparisons average what may be averaged, and nothing else."""

from __future__ import annotations

import copy
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mads4.errors import UserError
from mads4.report.compare import (
    average_over_seeds,
    collect,
    compare,
    find_runs,
    interval_over_runs,
    to_markdown,
    write_csv,
)


def write_run(
    path: Path, summary: dict[str, Any], seed: int, mean: float, message: str = "output"
) -> dict[str, Any]:
    """A run whose return at the target 29.7 is `mean`, and 2 less at the target 20."""
    path.mkdir(parents=True)
    one = copy.deepcopy(summary)
    one["eval"]["29.7"].update(return_mean=mean, return_iqm=mean)
    one["eval"]["20.0"].update(return_mean=mean - 2)
    (path / "summary.json").write_text(json.dumps(one))
    config = {"seed": seed, "device": f"cuda:{seed}", "model": {"message": message, "width": 96}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return one


@pytest.fixture
def sweep(tmp_path: Path, summary: dict[str, Any]) -> Path:
    means = {("output", 0): 16.0, ("output", 1): 18.0, ("none", 0): 9.0, ("none", 1): 11.0}
    for job, ((message, seed), mean) in enumerate(means.items()):
        write_run(tmp_path / "sweep" / str(job), summary, seed, mean, message)
    return tmp_path / "sweep"


def test_sweep_is_averaged_over_seeds(sweep: Path) -> None:
    frame = compare(find_runs([sweep]))
    assert list(frame.columns[:3]) == ["name", "model.message", "target"]
    assert frame["seeds"].tolist() == [2, 2, 2, 2]
    rows = frame.set_index(["model.message", "target"])
    assert rows.loc[("output", 29.7), "return_mean"] == 17.0
    assert rows.loc[("output", 20.0), "return_mean"] == 15.0
    best = rows.loc[("none", 29.7)]
    assert best["return_mean"] == 10.0
    # 9 and 11: standard error 1, and Student's t with one degree of freedom is 12.706
    assert (best["return_low"], best["return_high"]) == pytest.approx((-2.706, 22.706), abs=1e-3)
    assert best["episodes"] == 128
    assert best["normalized_score"] == pytest.approx(0.4)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_an_interval_over_runs_holds_the_mean_19_times_in_20(runs: int) -> None:
    rng = np.random.default_rng(runs)
    ends = [interval_over_runs(rng.normal(7.0, 2.0, runs)) for _ in range(4000)]
    held = np.mean([low <= 7.0 <= high for low, high in ends])
    assert held == pytest.approx(0.95, abs=0.015)  # four standard errors


def test_runs_one_by_one(sweep: Path) -> None:
    frame = compare(find_runs([sweep / "0", sweep / "2"]), over_seeds=False)
    assert len(frame) == 4
    assert frame["seed"].tolist() == ["0"] * 4
    assert frame["model.message"].tolist() == ["output", "output", "none", "none"]
    single = average_over_seeds(frame)
    assert single["seeds"].tolist() == [1] * 4
    assert (single["return_low"][0], single["return_high"][0]) == (15.2, 16.8)


def test_a_run_given_twice_counts_once(sweep: Path) -> None:
    pd.testing.assert_frame_equal(
        compare(find_runs([sweep, sweep / "1"])), compare(find_runs([sweep]))
    )


def test_a_repeated_seed_counts_once(
    sweep: Path, summary: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    write_run(sweep / "9", summary, seed=1, mean=20.0)
    with caplog.at_level(logging.WARNING):
        frame = compare(find_runs([sweep]))
    assert frame["seeds"].max() == 2
    assert frame.loc[0, "return_mean"] == 18.0
    assert "same seed" in caplog.text


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"reward_definition": "alberdice"}, "different reward definitions.*alberdice"),
        ({"data": {"fingerprint": "ffff"}}, "different data sets.*ffff"),
        ({"data": None}, "different data sets.*unknown"),
    ],
)
def test_what_differs_is_not_averaged(
    sweep: Path,
    summary: dict[str, Any],
    change: dict[str, Any],
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = write_run(sweep / "9", summary, seed=2, mean=30.0)
    (sweep / "9" / "summary.json").write_text(json.dumps(one | change))
    with pytest.raises(UserError, match=what):
        compare(find_runs([sweep]))
    assert len(compare(find_runs([sweep]), over_seeds=False)) == 10
    caplog.clear()
    mixed = compare(find_runs([sweep]), mix=True)
    assert mixed["seeds"].max() == 3
    assert re.search(what, caplog.text)


def test_scenarios_are_never_mixed(sweep: Path, summary: dict[str, Any]) -> None:
    one = write_run(sweep / "9", summary, seed=2, mean=30.0)
    one["env"] = one["env"] | {"scenario": "elsewhere"}
    (sweep / "9" / "summary.json").write_text(json.dumps(one))
    with pytest.raises(UserError, match="different scenarios"):
        compare(find_runs([sweep]), mix=True)


def test_failed_and_missing_runs(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    failed = sweep / "7"
    failed.mkdir()
    (failed / "FAILED").touch()
    with caplog.at_level(logging.WARNING):
        assert len(compare(find_runs([sweep]))) == 4
    assert f"{failed} failed" in caplog.text
    with pytest.raises(UserError, match="mads4 evaluate"):
        compare(find_runs([failed]))
    with pytest.raises(UserError, match="not a directory"):
        compare(find_runs([sweep / "nowhere"]))


def test_a_run_that_failed_after_its_summary_was_written_is_left_out(sweep: Path) -> None:
    (sweep / "1" / "FAILED").touch()
    assert compare(find_runs([sweep]))["seeds"].tolist() == [1, 1, 2, 2]


def test_evaluations_have_the_settings_of_their_training(
    sweep: Path, summary: dict[str, Any]
) -> None:
    for seed, mean in ((0, 12.0), (1, 14.0)):
        trained = yaml.safe_load((sweep / str(seed) / "config.yaml").read_text())
        run = sweep / str(seed) / "sampled"
        one = write_run(run, summary, seed, mean)
        (run / "summary.json").write_text(json.dumps(one | {"training": trained}))
        config = {"checkpoint": f"there/{seed}", "env": None, "model": {"message": "output"}}
        (run / "config.yaml").write_text(yaml.safe_dump(config | {"evaluator": {"sample": True}}))
        trained["evaluator"] = {"sample": False}
        (sweep / str(seed) / "config.yaml").write_text(yaml.safe_dump(trained))
    frame = compare(find_runs([sweep / "0", sweep / "1"]))
    assert list(frame.columns[:3]) == ["name", "evaluator.sample", "target"]
    assert frame["return_mean"].tolist() == [17.0, 15.0, 13.0, 11.0]
    assert frame["seeds"].tolist() == [2, 2, 2, 2]


def test_wins_and_the_data_stand_beside_the_returns(sweep: Path, tmp_path: Path) -> None:
    for run, won in (("0", 0.5), ("1", 0.75)):
        path = sweep / run / "summary.json"
        one = json.loads(path.read_text())
        one["eval"]["29.7"] |= {"win_rate": won, "win_rate_ci95": [won - 0.1, won + 0.1]}
        one["data"] |= {"return_mean": 14.5, "win_rate": 0.25}
        path.write_text(json.dumps(one))
    first, *rows = to_markdown(compare(find_runs([sweep / "0", sweep / "1"]))).splitlines()
    assert "| won | 95% interval | data's mean | data's won |" in first
    assert "| 62% | 0% - 100% | 14.50 | 25% |" in rows[1], "two seeds tell next to nothing"
    alone = to_markdown(compare(find_runs([sweep / "0"]))).splitlines()
    assert "| 50% | 40% - 60% | 14.50 | 25% |" in alone[2]
    assert "|  |  | 14.50 | 25% |" in alone[3], "the other target's wins are not known"
    assert "won" not in to_markdown(compare(find_runs([sweep / "2"])))


def test_yardsticks_of_one_run_alone_are_no_difference(sweep: Path) -> None:
    for run, played in (("0", True), ("1", False)):
        path = sweep / run / "config.yaml"
        config = yaml.safe_load(path.read_text()) | {"evaluator": {"baselines": played}}
        path.write_text(yaml.safe_dump(config))
    path = sweep / "1" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"baselines": {}}))
    frame = compare(find_runs([sweep / "0", sweep / "1"]))
    assert frame["seeds"].tolist() == [2, 2]
    assert frame["normalized_score"].isna().tolist() == [True, False], "one's is not both's"


def test_markdown_and_csv(sweep: Path, tmp_path: Path) -> None:
    frame = compare(find_runs([sweep]))
    text = to_markdown(frame)
    first = text.splitlines()[0]
    assert first.startswith(
        "| name | model.message | target return | mean return | 95% interval | IQM"
    )
    assert "| quickstart | output | 29.70 | 17.00 | 4.29 - 29.71 | 17.00 |" in text
    write_csv(frame, tmp_path / "table.csv")
    back = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert back["return_mean"].tolist() == frame["return_mean"].tolist()
    assert back["model.message"].tolist() == frame["model.message"].tolist()


def test_without_configuration_and_score(tmp_path: Path, summary: dict[str, Any]) -> None:
    del summary["baselines"]
    write_run(tmp_path / "a", summary, 0, 5.0)
    (tmp_path / "a" / "config.yaml").unlink()
    frame = collect([tmp_path / "a"])
    assert frame["seed"].tolist() == ["-", "-"]
    assert "| 5.00 |" in to_markdown(compare(find_runs([tmp_path / "a"])))
