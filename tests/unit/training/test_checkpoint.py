"""Checkpoints survive crashes and refuse everything that is not theirs."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mads4.errors import UserError
from mads4.training import checkpoint
from process_table import wait_for

PAYLOAD = {
    "weights": {"layer.weight": torch.arange(6.0).reshape(2, 3)},
    "step": 7,
    "random": {"state": {"state": 2**127 + 1}, "name": "PCG64", "bytes": b"\x00\x01"},
    "best": None,
    "history": [1.5, (True, "x")],
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    checkpoint.save(path, PAYLOAD)
    loaded = checkpoint.load(path)
    torch.testing.assert_close(
        loaded["weights"]["layer.weight"], PAYLOAD["weights"]["layer.weight"], rtol=0, atol=0
    )
    assert {k: v for k, v in loaded.items() if k != "weights"} == {
        k: v for k, v in PAYLOAD.items() if k != "weights"
    }
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_optimizer_state_and_ordered_dict_survive(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    loaded = checkpoint.load(path)
    assert isinstance(loaded["model"], collections.OrderedDict)
    optimizer.load_state_dict(loaded["optimizer"])


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_a_crash_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def fail(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    if moment == "write":
        monkeypatch.setattr(torch, "save", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"step": 2})
    monkeypatch.undo()
    assert checkpoint.load(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [np.float64(1.0)]}, r"\['a'\]\[0\] is a float64"),
        ({"spec": Path("x")}, r"\['spec'\] is a"),
        ({"a": {(1, 2): 0}}, "has the key"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, value: dict[str, object], where: str
) -> None:
    with pytest.raises(TypeError, match=where):
        checkpoint.save(tmp_path / "x.pt", value)
    assert not list(tmp_path.iterdir())


def test_damaged_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"weights": torch.arange(1000.0)})
    whole = path.read_bytes()
    for length in (1, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"last\.pt"):
            checkpoint.load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        checkpoint.load(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    path.write_text("step,loss\n")
    with pytest.raises(UserError, match="not a MADS4 checkpoint"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="not a MADS4 checkpoint"):
        checkpoint.load(path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="not a MADS4 checkpoint"):
        checkpoint.load(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="could run foreign code"):
        checkpoint.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UserError, match="not a MADS4 checkpoint"):
        checkpoint.load(path)


def test_newer_schema_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "new.pt"
    torch.save({"format": checkpoint.FORMAT, "schema": 99, "payload": {}}, path)
    with pytest.raises(UserError, match="schema 99"):
        checkpoint.load(path)
    with pytest.raises(UserError, match=r"no checkpoint .*gone\.pt.*new\.pt"):
        checkpoint.load(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="is a directory"):
        checkpoint.load(tmp_path)


def test_find(tmp_path: Path) -> None:
    run = tmp_path / "run"
    best, last = run / "checkpoints" / "best.pt", run / "checkpoints" / "last.pt"
    checkpoint.save(last, {})
    assert checkpoint.find(run) == last
    checkpoint.save(best, {})
    assert checkpoint.find(run) == best
    assert checkpoint.find(run, "last") == last
    assert checkpoint.find(run / "checkpoints") == best
    assert checkpoint.find(best, "last") == best
    last.unlink()
    with pytest.raises(UserError, match=r"no last\.pt.*best\.pt"):
        checkpoint.find(run, "last")
    with pytest.raises(UserError, match="Give one of the 1 that exist"):
        checkpoint.find(tmp_path)
    with pytest.raises(UserError, match="There is no"):
        checkpoint.find(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="stopped before its first one"):
        checkpoint.find(tmp_path / "empty")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.11])
def test_a_killed_process_leaves_a_whole_file(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "last.pt"
    script = (
        "import sys, itertools, pathlib, torch; from mads4.training import checkpoint\n"
        "for step in itertools.count():\n"
        "    weights = torch.full((200_000,), float(step))\n"
        "    checkpoint.save(pathlib.Path(sys.argv[1]), {'step': step, 'weights': weights})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as child:
        try:
            wait_for(path.exists)
            time.sleep(delay)
        finally:
            child.kill()
    loaded = checkpoint.load(path)
    assert loaded["weights"].unique().tolist() == [loaded["step"]]
