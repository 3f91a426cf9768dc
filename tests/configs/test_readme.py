"""Every command line that the documentation shows can be composed as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mads4.config.compose import check
from mads4.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "benchmarks/README.md", "Makefile")
COMMAND = re.compile(r"(?:^|/|`|\()mads4 (train|collect|evaluate|probe)\b([^`#\n]*)", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        found += [(match[1], match[2]) for match in COMMAND.finditer(text)]
    return found


def arguments(words: str) -> list[str]:
    words = re.sub(r"\\n'.*|; fi$", "", words)  # the end of a shell's printf or if
    words = re.sub(
        r"\$\((\w+)\)", lambda match: {"SCENARIO": "tiny-2ag"}.get(match[1], "run"), words
    )
    return shlex.split(re.sub(r"%s|<\w+>", "run", words))


def test_there_are_commands() -> None:
    assert len(commands()) >= 15


@pytest.mark.parametrize(("command", "words"), commands())
def test_a_documented_command_is_right(command: str, words: str) -> None:
    if "mesage" in words:  # shown for the mistake in it
        with pytest.raises(UserError, match="Did you mean 'message'"):
            check(command, arguments(words))
    else:
        check(command, arguments(words))
