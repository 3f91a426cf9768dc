from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mads4.cli.main import COMMANDS

SCRIPT = """
import sys
from mads4.cli import main
try:
    main({words!r})
except SystemExit:
    pass
assert {absent!r} not in sys.modules
"""


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
    assert "kernel      auto*, cuda, custom, keops, torch\n" in output
    assert "  trainer.steps=5000\n      Optimizer steps in all. [a whole number >= 1]\n" in output


def test_help_is_about_the_selected_options_only(
    cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("train", "env=smax", "model=mlp", "trainer.steps=7", "--help") == 0
    output = capsys.readouterr().out
    assert "smax*" in output and "mlp*" in output and "env.scenario=2s3z" in output
    assert "trainer.steps=7" in output
    for other in ("env.reward", "model.message_dim", "online_algorithm", "factory"):
        assert other not in output, other
    assert cli("train", "env=smacks", "--help") == 2
    assert "Did you mean 'smac'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], "torch"),
        (["data", "--help"], "torch"),
        (["train", "--help"], "rware"),
        (["train", "--cfg", "job"], "rware"),
    ],
)
def test_looking_is_quick_because_much_stays_out(
    words: list[str], absent: str, tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(words=words, absent=absent)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
