"""Reading summaries: complete, partial, damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mads4.errors import UserError
from mads4.evaluation.record import Figures, RunRecord


def test_order_labels_and_scores(summary: dict[str, Any]) -> None:
    extra = {"same network without memory": Figures(return_mean=5.0)}
    found = RunRecord.of(summary).results(extra)
    assert [r.label for r in found] == [
        "random actions",
        "recorded data",
        "MADS4, target 29.7",
        "MADS4, target 20",
        "same network without memory",
        "scripted expert",
    ]
    assert [r.score for r in found] == pytest.approx([0.0, 0.8, 0.64, 0.63, 0.2, 1.0])
    assert (found[1].low, found[1].high) == (17.0, 23.0)
    assert (found[2].low, found[2].high) == (15.2, 16.8)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({}, "MADS4"),
        ({"name": "mads4"}, "MADS4"),
        ({"name": "mlp"}, "feed-forward"),
        ({"name": "transformer"}, "transformer"),
        ({"name": "gru"}, "gru"),
    ],
)
def test_no_other_model_is_called_mads4(
    summary: dict[str, Any], model: dict[str, Any], name: str
) -> None:
    record = RunRecord.of(summary | {"model": model})
    labels = [result.label for result in record.results() if result.kind == "policy"]
    assert labels == [f"{name}, target 29.7", f"{name}, target 20"]


def test_absent_parts_are_left_out(summary: dict[str, Any]) -> None:
    empty = {"eval": None, "baselines": None, "data": {"return_mean": None}}
    assert RunRecord().results() == []
    assert RunRecord.of(empty).results() == []
    del summary["baselines"], summary["data"]["return_std"]
    found = RunRecord.of(summary).results()
    assert [r.kind for r in found] == ["data", "policy", "policy"]
    assert found[0].low is None and found[0].score is None


def test_unit_tells_what_is_counted(summary: dict[str, Any]) -> None:
    assert RunRecord.of(summary).unit == "deliveries per 500-step episode"
    summary["reward_definition"] = "alberdice"
    assert RunRecord.of(summary).unit == "team return per 500-step episode (reward: alberdice)"
    assert RunRecord().unit == "team return per episode"


def test_missing_and_damaged_summaries(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mads4 evaluate"):
        RunRecord.load(tmp_path)
    (tmp_path / "summary.json").write_text('{"name": ')
    with pytest.raises(UserError, match="not valid JSON"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    "damage", [{"eval": {"20": {"return_mean": "x"}}}, {"env": 3}, {"time": []}]
)
def test_wrong_types_are_named(
    damage: dict[str, Any], summary: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary | damage))
    with pytest.raises(UserError, match=rf"summary.json is damaged \({next(iter(damage))}"):
        RunRecord.load(tmp_path)


def test_a_record_survives_its_file(summary: dict[str, Any], tmp_path: Path) -> None:
    summary["eval"]["20.0"]["deliveries_mean"] = 13.5  # metrics of the environment are kept
    record = RunRecord.of(summary)
    record.write(tmp_path)
    assert RunRecord.load(tmp_path) == record
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["eval"]["20.0"]["deliveries_mean"] == 13.5
    assert "before" not in written
