"""`mads4 export`: files that run by themselves, what they say, and mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mads4.export.onnx
from fakes import SMALL, SPEC, make_policy
from mads4.cli.export import Request, parse
from mads4.errors import UserError
from mads4.export.agent import Agent
from mads4.export.onnx import read_program
from mads4.models import Mads4Config
from mads4.training import checkpoint

Cli = Callable[..., int]
THREE = replace(SPEC, n_agents=3)
OPTIONS = {"message": "state", "autoregressive": True}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with the checkpoint of an untrained policy."""
    payload = {
        "model": Mads4Config(**SMALL, **OPTIONS).model_dump(mode="json"),
        "spec": THREE.to_dict(),
        "policy": make_policy(THREE, torch.float32, **OPTIONS).state_dict(),
        "env": {"name": "custom", "arguments": {"factory": "fakes:MatchingEnv"}},
        "seed": 5,
        "state": {"step": 7},
    }
    checkpoint.save(tmp_path / "run/checkpoints/best.pt", payload)
    provenance = {"git": {"commit": "c0ffee", "dirty": False}}
    (tmp_path / "run/provenance.json").write_text(json.dumps(provenance))
    return tmp_path / "run"


@pytest.mark.parametrize("out", ["agent.onnx", "agent.pt2"])
def test_the_program_runs_by_itself(
    cli: Cli, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert cli("export", f"checkpoint={run_dir}", f"out=deployed/{out}") == 0
    path = tmp_path / "deployed" / out
    shown = capsys.readouterr().out
    assert f"{path.stat().st_size:,} bytes" in shown
    assert "message:    12 bytes (3 float32) a step, and the action taken" in shown
    assert "memory:     384 bytes an agent" in shown
    assert "note: every agent needs the global state" in shown
    found = re.search(r"difference: (\S+) at most from the policy", shown)
    assert found and float(found[1]) < 1e-5
    assert list(path.parent.iterdir()) == [path], "one file, nothing beside it"

    program = read_program(path)
    agent = Agent(make_policy(THREE, torch.float32, **OPTIONS))
    for batch in (1, 2, 5):
        given = {port.name: port.tensor(batch) for port in agent.inputs}
        generator = torch.Generator().manual_seed(batch)
        given["observation"] = torch.randn(batch, THREE.obs_dim, generator=generator)
        given["agent"] = torch.arange(batch) % 3
        given["available_actions"][:, 1] = False
        outputs = program(given)
        wanted = agent(*[given[port.name] for port in agent.inputs])
        assert list(outputs) == ["logits", "message_out", "memory_0_out", "memory_1_out"]
        for value, expected in zip(outputs.values(), wanted, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
        assert (outputs["logits"][:, 1] == -torch.inf).all()


def test_what_the_file_says(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    file = run_dir / "checkpoints/best.pt"
    assert cli("export", f"checkpoint={file}", "out=a.pt2", "format=torch_export", "agent=2") == 0
    about = read_program(tmp_path / "a.pt2").about
    assert about["training"] == {"commit": "c0ffee", "dirty": False, "seed": 5, "step": 7}
    assert about["spec"] == THREE.to_dict()
    assert about["env"]["name"] == "custom"
    assert (about["agent"], about["n_agents"], about["n_actions"]) == (2, 3, 4)
    assert about["normalized_inputs"] == ["observation", "global_state", "return_to_go"]
    assert (about["message"], about["message_bytes"], about["autoregressive"]) == (
        "state",
        12,
        True,
    )
    assert (about["message_delay"], about["agent_order"]) == (0, "fixed")
    ports = {port["name"]: port for port in about["inputs"]}
    assert "agent" not in ports
    assert ports["memory_1"] == {
        "name": "memory_1",
        "shape": [8, 6],
        "dtype": "float32",
        "initial": 0,
    }
    assert ports["predecessor_action"]["initial"] == -1
    content = (tmp_path / "a.pt2").read_bytes()
    assert str(Path(mads4.export.onnx.__file__).parent).encode() not in content, "paths stay here"


def test_what_differs_is_not_kept(
    cli: Cli,
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for difference in (2e-5, float("nan")):
        monkeypatch.setattr(mads4.export.onnx, "largest_difference", lambda *_, d=difference: d)
        assert cli("export", f"checkpoint={run_dir}", "out=a.pt2") == 2
        assert "program differs from the policy by" in capsys.readouterr().err
        assert not list(tmp_path.glob("*a.pt2*"))


def test_onnx_may_be_missing(
    cli: Cli, run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mads4.export.onnx, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    assert cli("export", f"checkpoint={run_dir}", "out=a.onnx") == 2
    assert "needs no_such_package: pip install 'mads4[export]'" in capsys.readouterr().err


def test_there_are_only_so_many_agents(
    cli: Cli, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("export", f"checkpoint={run_dir}", "out=a.onnx", "agent=3") == 2
    assert "trained with 3 agents; give 0 … 2 or shared" in capsys.readouterr().err


def test_requests() -> None:
    shared = parse(["checkpoint=run", "out=a.onnx"])
    assert shared == Request(Path("run"), Path("a.onnx"), "onnx", None)
    one = parse(["out=b/a.pt2", "agent=1", "checkpoint=x.pt", "format=torch_export"])
    assert one == Request(Path("x.pt"), Path("b/a.pt2"), "torch_export", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("chekpoint=run out=a.onnx", "chekpoint: not an option.*Did you mean 'checkpoint'?"),
        ("checkpoint=run", "out: missing. Example: mads4 export checkpoint="),
        ("run out=a.onnx", "run: cannot be read as key=value"),
        ("checkpoint=run out=a.onx", "out: got 'a.onx', expected one of onnx"),
        ("checkpoint=run out=a format=onx", "format: got 'onx'.*Did you mean 'onnx'?"),
        ("checkpoint=run out=a.onnx format=torch_export", r"expected ….pt2 for format=torch_exp"),
        ("checkpoint=run out=a.onnx agent=share", "agent: got 'share'.*Did you mean 'shared'?"),
        ("checkpoint=run out=a.onnx agent=-1", "agent: got '-1', expected an agent's number"),
    ],
)
def test_mistakes(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(words.split())


def test_all_mistakes_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse(["format=onx", "agent=x", "color=red"])
    assert len(str(caught.value).splitlines()) == 5


def test_what_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no"):
        read_program(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_text("nonsense")
    checkpoint.save(tmp_path / "a.pt2", {"a": 1})
    for name in ("a.onnx", "a.pt2"):
        with pytest.raises(UserError, match="is not an agent that `mads4 export` wrote"):
            read_program(tmp_path / name)
