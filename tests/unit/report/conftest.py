"""A run's record and metrics, invented."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mads4.evaluation.record import RunRecord
from run_records import SUMMARY


@pytest.fixture
def summary() -> dict[str, Any]:
    return copy.deepcopy(SUMMARY)


@pytest.fixture
def record(summary: dict[str, Any]) -> RunRecord:
    return RunRecord.of(summary)


@pytest.fixture
def metrics() -> pd.DataFrame:
    steps = np.arange(10, 610, 10)
    losses = 0.5 + np.exp(-steps / 100)
    held_out = np.where(steps % 100 == 0, losses + 0.05, np.nan)
    return pd.DataFrame(
        {"step": steps, "time": 1.0, "offline/loss": losses, "validation/loss": held_out}
    )
