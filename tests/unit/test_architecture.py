"""Imports run one way, and configuration frameworks stay at the edge."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import mads4

SOURCE = Path(mads4.__file__).parent
FOUNDATION = {"errors", "types", "io", "settings"}
PLAYED = FOUNDATION | {"envs", "rollout"}

ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "io": {"errors", "types"},
    "settings": {"errors"},
    "provenance": {"errors", "types", "io"},
    "logging": {"errors", "types", "io"},
    "kernels": FOUNDATION,
    "nn": FOUNDATION | {"kernels"},
    "models": FOUNDATION | {"nn"},
    "envs": FOUNDATION | {"provenance"},
    "rollout": FOUNDATION | {"envs"},
    "behavior": PLAYED,
    "data": PLAYED,
    "algorithms": FOUNDATION | {"nn", "models", "data", "rollout"},
    "config": FOUNDATION | {"envs", "kernels", "models", "algorithms", "data"},
    "training": PLAYED | {"models", "algorithms", "data", "config", "logging"},
    "evaluation": PLAYED | {"models", "algorithms", "data", "behavior", "config", "logging"},
    "report": FOUNDATION | {"evaluation", "logging"},
    "export": FOUNDATION | {"models"},
    "experiment": PLAYED
    | {"kernels", "models", "algorithms", "data", "behavior", "config", "training"}
    | {"evaluation", "report", "logging", "provenance"},
}
"""Part of the package -> other parts it may import; `cli` may import everything."""

NO_FRAMEWORK = set(ALLOWED) - {"config", "experiment"}


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path.parent.name != "conf")


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield every imported name in full, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    here = part(path)
    if here in ("__init__", "cli"):
        return
    assert here in ALLOWED, f"say in this test what mads4.{here} may import"
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "mads4" and rest and not rest.startswith("__"):
            assert rest.partition(".")[0] in ALLOWED[here] | {here}, f"mads4.{here} imports {name}"
        if here in NO_FRAMEWORK:
            assert top not in ("hydra", "omegaconf"), f"mads4.{here} imports {name}"


def test_no_two_parts_import_each_other() -> None:
    graphlib.TopologicalSorter(ALLOWED).prepare()  # raises where the table has a circle


def test_every_package_is_declared() -> None:
    """A package missing from pyproject.toml would be missing from the wheel."""
    text = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for folder in {path.parent for path in modules() if path.name == "__init__.py"}:
        name = ".".join(("mads4", *folder.relative_to(SOURCE).parts))
        assert f'"{name}"' in text
