"""What is installed from a wheel is whole, and works from any directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import mads4
from mads4.cli import main
assert mads4.__file__.startswith(sys.argv[1]), mads4.__file__
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that neither the checkout nor earlier builds play a part."""
    source = tmp_path_factory.mktemp("source")
    for name in ("src", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), "."]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_is_whole(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = (ROOT / "src").rglob("*.py")
    settings = (ROOT / "conf").rglob("*.yaml")
    assert {path.relative_to(ROOT / "src").as_posix() for path in modules} <= names
    assert {f"mads4/conf/{p.relative_to(ROOT / 'conf').as_posix()}" for p in settings} <= names
    assert "mads4/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_runs_from_any_directory(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, *install, str(wheel)], check=True, capture_output=True)

    def mads4(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, str(target), *words],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=False,
        )

    shown = mads4("train", "experiment=smoke", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "name: smoke" in shown.stdout
    wrong = mads4("train", "kernel=troch")
    assert wrong.returncode == 2
    assert "Did you mean 'torch'?" in wrong.stderr
    assert list(elsewhere.iterdir()) == []
