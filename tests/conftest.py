"""What all tests share: one thread, the helper module `fakes`, and the command line in-process."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mads4.cli import main

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests run side by side, and small products are fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A shell's background jobs ignore SIGINT, and so would the runs that tests interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run a command line in an empty folder and return its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["mads4"])
    root, package = logging.getLogger(), logging.getLogger("mads4")
    handlers, levels = root.handlers[:], (root.level, package.level)
    terminate = signal.getsignal(signal.SIGTERM)
    if absl := sys.modules.get("absl.logging"):
        # Hydra closes all handlers. Absl's, made in an earlier test (by JAX), would take pytest's
        # stream along, which is the interpreter's own nowhere but in tests.
        absl.get_absl_handler().python_handler.stream = sys.__stderr__

    def call(*words: str) -> int:
        try:
            return main(list(words))
        except SystemExit as end:
            assert isinstance(end.code, int)
            return end.code

    yield call
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    package.setLevel(levels[1])
    signal.signal(signal.SIGTERM, terminate)
