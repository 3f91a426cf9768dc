"""A jaxmarl that is missing, or incompatible with its jax: one sentence with the command."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from mads4.envs.requirements import PACKAGES, missing
from mads4.envs.smax import UPGRADE, import_jax
from mads4.errors import UserError

INSTALL = PACKAGES["jaxmarl"].install


def test_missing_packages_come_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    monkeypatch.setitem(sys.modules, "jax", None)
    assert "jaxmarl and jax are missing" in str(missing("env=smax"))
    with pytest.raises(UserError) as error:
        import_jax()
    assert INSTALL in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "raise AttributeError('jax.tree_map')",
            ["(AttributeError: jax.tree_map)", "installed are jaxmarl ", UPGRADE],
        ),
        ("import flax_of_which_there_is_none", ["flax_of_which_there_is_none is missing", INSTALL]),
    ],
)
def test_import_errors_are_reported(
    line: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "jaxmarl"]:
        monkeypatch.delitem(sys.modules, name)
    jax = ModuleType("jax")
    jax.__spec__ = ModuleSpec("jax", None)
    monkeypatch.setitem(sys.modules, "jax", jax)
    (tmp_path / "jaxmarl").mkdir()
    (tmp_path / "jaxmarl" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert missing("env=smax") is None, "the packages are only located"
    with pytest.raises(UserError) as error:
        import_jax()
    for word in words:
        assert word in str(error.value)
