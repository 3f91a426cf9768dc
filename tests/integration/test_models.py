"""Every policy trains, goes on, evaluates, is fine-tuned and exports from the command line."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mads4.training import checkpoint
from mads4.training.offline import OfflineTrainer

Cli = Callable[..., int]
TRANSFORMER = (
    *("model=transformer", "model.d_model=8", "model.n_heads=2", "model.n_layers=1"),
    *("model.feed_forward=8", "model.context_length=4"),
)
CUSTOM = ("model=custom", "model.factory=fakes:small_mlp", "+model.options.d_model=6")
SHORT = ("trainer.checkpoint_interval=3", "evaluator.episodes=1", "evaluator.baselines=false")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run / "checkpoints/last.pt")["policy"])


def stopped_at(last: int) -> Callable[..., Any]:
    """Return an `OfflineTrainer.update` during whose step `last` SIGTERM arrives."""
    update = OfflineTrainer.update

    def interrupted(self: OfflineTrainer, step: int) -> Any:
        if step == last:
            signal.raise_signal(signal.SIGTERM)
        return update(self, step)

    return interrupted


@pytest.mark.parametrize("stateful", ["false", "true"])
def test_a_transformer_trains_goes_on_and_exports(
    cli: Cli,
    smoke: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stateful: str,
) -> None:
    train = (
        *smoke,
        *TRANSFORMER,
        *SHORT,
        "trainer.context_length=6",
        f"trainer.stateful={stateful}",
    )
    train = (*train, "algorithm.warmup_steps=0", "algorithm.schedule=constant")
    train = (*train, "trainer.steps=8")
    assert cli(*train, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(OfflineTrainer, "update", stopped_at(4))
        assert cli(*train, "hydra.run.dir=run") != 0
    assert cli(*train, "hydra.run.dir=run", "resume=auto") == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert cli("evaluate", "checkpoint=run", "evaluator.episodes=1") == 0
    assert cli("export", "checkpoint=run", "out=agent.onnx") == 0
    assert (tmp_path / "agent.onnx").is_file()


def test_a_transformer_is_fine_tuned(cli: Cli, smoke: tuple[str, ...], tmp_path: Path) -> None:
    assert cli(*smoke, *TRANSFORMER, *SHORT, "trainer.steps=3", "hydra.run.dir=before") == 0
    online = ("trainer=online", "trainer.iterations=2", "trainer.episodes=2", "logger=none")
    words = ("env.options.max_steps=40", "init_from=before", "hydra.run.dir=after")
    segments = ("algorithm.bptt_length=7", "evaluator.episodes=1", "evaluator.baselines=false")
    assert cli("train", *online, *words, *segments) == 0
    summary = json.loads((tmp_path / "after/summary.json").read_text())
    assert summary["model"]["name"] == "transformer"


def test_a_policy_of_ones_own(
    cli: Cli, smoke: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli(*smoke, *CUSTOM, *SHORT, "trainer.steps=3", "hydra.run.dir=run") == 0
    assert cli("evaluate", "checkpoint=run", "evaluator.episodes=1") == 2
    assert "give model_factory=fakes:small_mlp" in capsys.readouterr().err
    factory = "model_factory=fakes:small_mlp"
    assert cli("evaluate", "checkpoint=run", "evaluator.episodes=1", factory) == 0
    assert cli("export", "checkpoint=run", "out=agent.pt2") == 2
    assert cli("export", "checkpoint=run", "out=agent.pt2", factory) == 0


def test_a_kernel_of_ones_own_trains_and_is_never_imported_from_a_checkpoint(
    cli: Cli,
    smoke: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "own_kernel.py").write_text(
        "from mads4.kernels.backends.torch_backend import BACKEND\n"
        "class Own:\n"
        "    def __init__(self, name):\n"
        "        self.name, self.calls = name, 0\n"
        "    def powers(self, *arguments, **options):\n"
        "        self.calls += 1\n"
        "        return BACKEND.powers(*arguments, **options)\n"
        "made = []\n"
        "def make(name='own'):\n"
        "    made.append(Own(name))\n"
        "    return made[-1]\n",
        encoding="utf-8",
    )
    own = ("kernel=custom", "kernel.factory=own_kernel:make", "kernel.options.name=mine")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        assert cli(*smoke, *SHORT, "trainer.steps=3", *own, "hydra.run.dir=run") == 0
        (backend,) = sys.modules.pop("own_kernel").made
    assert backend.calls > 1
    assert cli(*smoke, *SHORT, "trainer.steps=3", "kernel=torch", "hydra.run.dir=torch") == 0
    assert all(
        torch.equal(value, weights(tmp_path / "run")[key])
        for key, value in weights(tmp_path / "torch").items()
    )
    noted = json.loads((tmp_path / "run/provenance.json").read_text())["kernel"]
    assert noted == {"backend": "mine", "reason": "made by own_kernel:make"}
    assert cli("evaluate", "checkpoint=run", "evaluator.episodes=1") == 0
    assert cli("probe", "checkpoint=run", "episodes=1", "gradient_episodes=1") == 0
    assert "own_kernel" not in sys.modules
    monkeypatch.syspath_prepend(str(folder))
    assert cli("probe", "checkpoint=run", "episodes=1", "gradient_episodes=1", *own) == 0
    (backend,) = sys.modules.pop("own_kernel").made
    assert backend.calls > 1
    assert cli("evaluate", "checkpoint=run", "evaluator.episodes=1", *own) == 0
