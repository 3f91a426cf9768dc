"""Reading summaries: complete, partial, damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mads4.errors import UserError
from mads4.report.summary import load_summary, results, unit


def test_order_labels_and_scores(summary: dict[str, Any]) -> None:
    extra = {"same network without memory": {"return_mean": 5.0}}
    found = results(summary, extra)
    assert [r.label for r in found] == [
        "random actions",
        "recorded data",
        "MADS4 asked for 29.7",
        "MADS4 asked for 20",
        "same network without memory",
        "scripted expert",
    ]
    assert [r.score for r in found] == pytest.approx([0.0, 0.8, 0.64, 0.63, 0.2, 1.0])
    assert (found[1].low, found[1].high) == (17.0, 23.0)
    assert (found[2].low, found[2].high) == (15.2, 16.8)


def test_absent_parts_are_left_out(summary: dict[str, Any]) -> None:
    assert results({}) == []
    assert results({"eval": None, "baselines": None, "data": {"return_mean": None}}) == []
    del summary["baselines"], summary["data"]["return_std"]
    found = results(summary)
    assert [r.kind for r in found] == ["data", "policy", "policy"]
    assert found[0].low is None and found[0].score is None


def test_unit_tells_what_is_counted(summary: dict[str, Any]) -> None:
    assert unit(summary) == "deliveries per 500-step episode"
    summary["reward_definition"] = "alberdice"
    assert unit(summary) == "team return per 500-step episode (reward: alberdice)"
    assert unit({}) == "team return per episode"


def test_missing_and_damaged_summaries(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mads4 evaluate"):
        load_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"name": ')
    with pytest.raises(UserError, match="not valid JSON"):
        load_summary(tmp_path)
