"""The example in `examples/` does what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "copy_delay.py"


def test_the_layer_learns_to_copy_with_delay(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(EXAMPLE))
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert losses[0] > 2.0  # guessing one of 8 symbols: ln 8
    assert losses[-1] < 0.02
    assert (names["logits"].argmax(-1) == names["target"]).float().mean() > 0.995


def test_it_is_as_short_as_announced() -> None:
    code = EXAMPLE.read_text(encoding="utf-8").rpartition('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_the_readme_shows_the_same_code() -> None:
    code = EXAMPLE.read_text(encoding="utf-8").rpartition('"""')[2].strip()
    readme = (EXAMPLE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{code}\n```" in readme
