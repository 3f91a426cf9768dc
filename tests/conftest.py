"""What all tests share: one thread, the helper module `fakes`, and the command line in-process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests run side by side, and small products are fastest on one thread."""
    torch.set_num_threads(1)
