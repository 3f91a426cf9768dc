from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mads4


@dataclass
class FakeBuild:
    """Stands in for `mads4.experiment`: notes what it was asked for, and does what a test wants."""

    calls: list[tuple[str, Any, Path]] = field(default_factory=list)
    behave: Callable[[Any, Path], None] = lambda config, run_dir: None

    def as_module(self) -> ModuleType:
        module = ModuleType("mads4.experiment")
        for command in ("train", "collect", "evaluate", "probe"):
            setattr(module, command, self._function(command))
        return module

    def _function(self, command: str) -> Callable[[Any, Path], None]:
        def function(config: Any, run_dir: Path) -> None:
            self.calls.append((command, config, run_dir))
            self.behave(config, run_dir)

        return function


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> FakeBuild:
    fake = FakeBuild()
    module = fake.as_module()
    monkeypatch.setitem(sys.modules, "mads4.experiment", module)
    monkeypatch.setattr(mads4, "experiment", module, raising=False)
    return fake
