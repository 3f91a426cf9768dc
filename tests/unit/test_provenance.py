"""Provenance: complete, plain, and never somebody else's commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mads4 import provenance
from mads4.io import write_json
from mads4.types import EnvSpec

SPEC = EnvSpec("rware", "tiny-2ag", 2, 71, 10, 5, 500, "deliveries")


def test_everything_is_named(tmp_path: Path) -> None:
    found = provenance.collect_provenance(
        seed=3,
        spec=SPEC,
        dataset={"name": "tiny", "fingerprint": "abc"},
        kernel_backend="torch",
        kernel_reason="no CUDA device",
    )
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["versions"]["python"].startswith("3.")
    assert found["machine"]["torch_threads"] == torch.get_num_threads()
    assert found["machine"]["cpu_count"] >= found["machine"]["usable_cpus"] >= 1
    assert found["environment"]["scenario"] == "tiny-2ag"
    assert found["reward_definition"] == "deliveries"
    assert found["kernel"] == {"backend": "torch", "reason": "no CUDA device"}
    assert found["seed"] == 3 and found["command"]
    write_json(tmp_path / "provenance.json", found)
    assert json.loads((tmp_path / "provenance.json").read_text()) == found


def test_commit_and_dirty_flag(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, timeout=120)

    source = tmp_path / "module.py"
    source.write_text("x = 1\n")
    git("init", "-q")
    assert provenance._git(source) is None
    git("add", "module.py")
    git("commit", "-q", "-m", "first")
    clean = provenance._git(source)
    assert clean is not None and len(clean["commit"]) == 40 and clean["dirty"] is False
    source.write_text("x = 2\n")
    changed = provenance._git(source)
    assert changed == {"commit": clean["commit"], "dirty": True}


def test_no_git_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.collect_provenance()["git"] is None


def test_json_is_strict_and_plain(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_json(
        path,
        {"a": np.float32("nan"), "b": [float("inf"), np.int64(3)], "c": np.arange(2), "d": path},
    )
    assert json.loads(path.read_text()) == {
        "a": None,
        "b": [None, 3],
        "c": [0, 1],
        "d": str(path),
    }
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]
