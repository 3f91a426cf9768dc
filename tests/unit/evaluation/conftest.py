"""The invented record of the report's tests."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from run_records import SUMMARY


@pytest.fixture
def summary() -> dict[str, Any]:
    return copy.deepcopy(SUMMARY)
