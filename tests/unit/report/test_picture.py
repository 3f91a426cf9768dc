"""The result picture says what the summary says, and never fails for what is absent."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mads4.evaluation.record import Figures, RunRecord
from mads4.report.picture import headline, result_picture, target_figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def save_and_note(self: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save_and_note)
    return figures


def words(axes: Any) -> str:
    legend = axes.get_legend()
    texts = [*axes.texts, *([] if legend is None else legend.get_texts())]
    return " | ".join(text.get_text() for text in texts)


def test_picture_states_the_result(
    record: RunRecord, metrics: pd.DataFrame, tmp_path: Path, drawn: list[Figure]
) -> None:
    path = tmp_path / "plots" / "result.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result_picture(record, metrics, path, extra={"no memory": Figures(return_mean=8.0)})
    with Image.open(path) as image:
        assert image.width > 1200 and len(set(image.convert("L").tobytes())) > 50
    learning, returns = drawn[0].axes
    assert [bar.get_width() for bar in returns.patches] == [0.0, 20.0, 16.0, 14.0, 8.0, 25.0]
    labels = [label.get_text() for label in returns.get_yticklabels()]
    assert labels[2] == "MADS4, target 29.7" and labels[4] == "no memory"
    assert "16.0" in words(returns) and "score 0.64" in words(returns)
    assert returns.get_xlabel() == "deliveries per 500-step episode"
    assert "step 400, loss 0.568" in words(learning)


@pytest.mark.parametrize("online", [False, True])
def test_periodic_evaluations_share_a_legend_that_hides_no_curve(
    record: RunRecord, metrics: pd.DataFrame, tmp_path: Path, drawn: list[Figure], online: bool
) -> None:
    values = np.where(metrics["step"] % 200 == 0, metrics["step"] / 40.0, np.nan)
    if online:
        returns = {f"online/return_{name}": metrics["step"] / 50.0 for name in ("mean", "average")}
        metrics = metrics.assign(**returns, **{"online/environment_steps": metrics["step"]})
    result_picture(record, metrics.assign(**{"eval/return_mean": values}), tmp_path / "result.png")
    learning, _, evaluations = drawn[0].axes
    assert evaluations.get_legend() is None
    assert "periodic evaluation" in words(learning)
    legend, place = learning.get_legend(), learning.get_window_extent()
    assert legend.get_window_extent().y1 < place.y0
    np.testing.assert_allclose(evaluations.lines[0].get_ydata(), [5.0, 10.0, 15.0])


def test_headline_does_not_choose_by_achievement(summary: dict[str, Any]) -> None:
    assert headline(RunRecord.of(summary)) == (
        "RWARE tiny-2ag: MADS4 reaches 16.0 deliveries, 80% of the data it learned from"
    )
    summary["eval"]["20.0"]["return_mean"] = 19.0
    assert "16.0 deliveries" in headline(RunRecord.of(summary))
    assert headline(RunRecord(name="new")) == "new: not evaluated yet"


@pytest.mark.parametrize("absent", ["eval", "data", "baselines", "train", "time", "env"])
def test_any_part_may_be_absent(
    summary: dict[str, Any], metrics: pd.DataFrame, tmp_path: Path, absent: str
) -> None:
    del summary[absent]
    record = RunRecord.of(summary)
    result_picture(record, metrics.drop(columns="validation/loss"), tmp_path / "result.png")
    target_figure(record).savefig(tmp_path / "targets.png")
    assert (tmp_path / "result.png").stat().st_size > 10_000


def test_nothing_at_all(tmp_path: Path, drawn: list[Figure]) -> None:
    result_picture(RunRecord(), pd.DataFrame({"step": [], "time": []}), tmp_path / "result.png")
    assert [words(axes) for axes in drawn[0].axes] == ["no losses were recorded", "no results yet"]


def test_target_figure(record: RunRecord) -> None:
    axes = target_figure(record).axes[0]
    points = next(line for line in axes.lines if line.get_label() == "MADS4, 95% interval")
    np.testing.assert_allclose(points.get_xydata(), [[29.7, 16.0], [20.0, 14.0]])
    assert axes.get_xlim() == axes.get_ylim()
