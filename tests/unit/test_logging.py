"""The record of a run: complete, resumable, and readable by anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mads4.errors import UserError
from mads4.logging import Tracker, read_metrics


def rows(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_there_before_close(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "run", tensorboard=False)
    tracker.log(10, {"offline/loss": torch.tensor(0.5), "offline/grad_norm": np.float32(2)})
    tracker.log(20, {"validation/loss": float("nan"), "offline/loss": float("inf")})
    first, second = rows(tmp_path / "run")
    assert (first["step"], first["offline/loss"], first["offline/grad_norm"]) == (10, 0.5, 2.0)
    assert second["validation/loss"] is None and second["offline/loss"] is None
    assert "time" in first
    tracker.close()
    tracker.close()


@pytest.mark.parametrize("name", ["loss", "/loss", "offline/", "a/b/c", "offline/the loss", ""])
def test_names_must_be_phase_and_metric(tmp_path: Path, name: str) -> None:
    with Tracker(tmp_path, tensorboard=False) as tracker:
        with pytest.raises(ValueError, match="phase/metric"):
            tracker.log(1, {"offline/loss": 1.0, name: 1.0})
        assert rows(tmp_path) == []


def test_resume_forgets_what_comes_again(tmp_path: Path) -> None:
    with Tracker(tmp_path, tensorboard=False) as tracker:
        for step in (10, 20, 30):
            tracker.log(step, {"offline/loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "offl')
    with Tracker(tmp_path, tensorboard=False, start_step=20) as tracker:
        tracker.log(30, {"offline/loss": -1})
    assert [(r["step"], r["offline/loss"]) for r in rows(tmp_path)] == [
        (10, 10),
        (20, 20),
        (30, -1),
    ]


def test_without_start_step_only_the_half_line_goes(tmp_path: Path) -> None:
    with Tracker(tmp_path, tensorboard=False) as tracker:
        tracker.log(10, {"offline/loss": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20')
    assert list(read_metrics(tmp_path)["step"]) == [10]
    with Tracker(tmp_path, tensorboard=False) as tracker:
        tracker.log(20, {"eval/return_mean": 3})
    assert [r["step"] for r in rows(tmp_path)] == [10, 20]


def test_read_metrics_joins_rows_of_a_step(tmp_path: Path) -> None:
    with Tracker(tmp_path, tensorboard=False) as tracker:
        tracker.log(1, {"offline/loss": 2.0})
        tracker.log(2, {"offline/loss": 1.0})
        tracker.log(2, {"validation/loss": 1.5})
    frame = read_metrics(tmp_path)
    assert list(frame["step"]) == [1, 2]
    assert frame["offline/loss"].tolist() == [2.0, 1.0]
    assert np.isnan(frame["validation/loss"][0]) and frame["validation/loss"][1] == 1.5


def test_read_metrics_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    frame = read_metrics(tmp_path)
    assert frame.empty and list(frame.columns) == ["step", "time"]


def test_tensorboard_shows_the_resumed_run_only(tmp_path: Path) -> None:
    from matplotlib.figure import Figure
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Tracker(tmp_path) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"offline/loss": step})
        tracker.text("config", "seed: 0")
    with Tracker(tmp_path, start_step=2) as tracker:
        tracker.log(3, {"offline/loss": 9})
        tracker.figure("eval/targets", Figure(figsize=(1, 1)), 3)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("offline/loss")] == [(1, 1), (2, 2), (3, 9)]
    assert events.Tags()["images"] == ["eval/targets"]
    assert any("config" in tag for tag in events.Tags()["tensors"])
