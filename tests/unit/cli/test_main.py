from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mads4.cli.main import COMMANDS

SCRIPT = (
    "import sys; from mads4.cli import main; main({words!r}); assert 'torch' not in sys.modules"
)


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_lists_every_command(
    words: list[str], cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*words) == 0
    output = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name:<10}{command.summary}" in output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(
    command: str, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(command, "--help") == 0
    assert f"usage: mads4 {command}" in capsys.readouterr().out


def test_training_help_shows_groups_and_settings(
    cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("train", "--help") == 0
    output = capsys.readouterr().out
    assert "kernel      auto, cuda, keops, torch\n" in output
    assert (
        "  trainer.steps: a whole number >= 1\n      Optimizer steps in all. Default: 5000"
        in output
    )


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--cfg", "job"]])
def test_looking_is_quick_because_torch_stays_out(words: list[str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(words=words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
