"""Tables and pictures of a chain's analysis say what its numbers say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mads4.report.ablation import headline, probe_picture, probe_tables, relative_gradients


def entry(label: str, mean: float, drop: float = 0.0) -> dict[str, Any]:
    return {
        "label": label,
        "order": "fixed",
        "drop": [drop, drop],
        "episodes": 64,
        "return_mean": mean,
        "return_ci95": [mean - 1.0, mean + 1.0],
        "change_mean": mean - 20.0,
        "change_ci95": [mean - 20.5, mean - 19.5],
    }


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "name": "mads4",
        "env": {"name": "rware", "scenario": "tiny-2ag", "reward": "deliveries"},
        "target_return": 22.0,
        "message_loss": [entry("0% lost", 20.0), entry("50% lost", 12.0, 0.5)],
        "cut": [entry("whole chain", 20.0), entry("cut before agent 1", -4.25)],
        "order": [entry("fixed order", 20.0), entry("reverse order", 19.0)],
        "gradient": {"norm": [[2.0, 0.0], [0.125, 0.5]], "episodes": 8, "definition": "…"},
    }


def test_tables(result: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=120)
    for table in probe_tables(result):
        console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    row = next(line for line in lines if "cut before agent 1" in line)
    for cell in ("-4.25", "-5.25 - -3.25", "-24.25", "-24.75 to -23.75"):
        assert cell in row
    row = next(line for line in lines if "agent 1 " in line and "25.0%" in line)
    assert "100.0%" in row
    assert "0.5" in row
    assert any("64 episodes with target return 22" in line for line in lines)


def test_headline(result: dict[str, Any]) -> None:
    assert (
        headline(result)
        == "RWARE tiny-2ag: return 20.0 as trained, 12.0 with 50% of messages dropped"
    )
    result["message_loss"].append(entry("100% lost", 3.0, 1.0))
    assert headline(result).endswith("3.0 with all messages dropped")


def test_an_agent_whose_loss_reaches_nothing_has_no_shares(result: dict[str, Any]) -> None:
    assert np.array_equal(relative_gradients(result), [[1.0, 0.0], [0.25, 1.0]])
    result["gradient"]["norm"][1] = [0.0, 0.0]
    assert np.isnan(relative_gradients(result)[1]).all()


@pytest.mark.parametrize("agents", [2, 3, 40])
def test_picture(result: dict[str, Any], agents: int, tmp_path: Path) -> None:
    result["gradient"]["norm"] = np.tril(np.ones((agents, agents))).tolist()
    result["gradient"]["norm"][0][0] = 0.0
    result["cut"] += [entry(f"cut before agent {k}", 5.0) for k in range(2, agents)]
    probe_picture(result, tmp_path / "probe.png")
    with Image.open(tmp_path / "probe.png") as picture:
        assert picture.width > 1000
        assert picture.height > 1000
