"""Online training from the command line: after offline training, in one run, from scratch."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mads4.algorithms.mappo import MAPPOConfig
from mads4.experiment import training
from mads4.training import checkpoint

Cli = Callable[..., int]
Start = Callable[..., "subprocess.Popen[str]"]
PATIENCE = 300.0
GAME = (
    *("train", "env=matrix_game", "env.episode_limit=6", "evaluator.target_returns=[3]"),
    *("evaluator.episodes=2", "evaluator.baselines=false", "evaluator.num_workers=0"),
    *("device=cpu", "threads=1", "logger=none", "progress=false"),
)
DATA = ("dataset.behavior_policy=random", "dataset.episodes=8", "dataset.num_workers=1")
SMALL = ("model.n_layers=1", "model.d_model=16", "model.d_state=4", "model.message_dim=2")
OFFLINE = ("steps=6", "warmup_steps=1", "batch_size=2", "checkpoint_interval=2")
ONLINE = (
    *("iterations=4", "episodes=4", "num_workers=0", "critic_warmup=1", "return_window=2"),
    *("checkpoint_interval=2", "critic_width=8", "actor_learning_rate=0.01", "bptt_length=4"),
)


def given(words: tuple[str, ...], group: str = "trainer") -> list[str]:
    """Return overrides: what the algorithm has goes there, all else to the trainer's `group`."""
    algorithm = "online_algorithm" if group.endswith("online") else "algorithm"
    known = set(MAPPOConfig.model_fields) | {"warmup_steps"}
    known -= {"batch_size"} if group != "trainer.online" and "steps=6" in words else set()
    return [f"{algorithm if word.partition('=')[0] in known else group}.{word}" for word in words]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Cli], Path]:
    """Return what trains offline once for all tests of this file, and gives the run directory."""
    run_dir = tmp_path_factory.mktemp("runs") / "offline"

    def get(cli: Cli) -> Path:
        if not run_dir.exists():
            assert cli(*GAME, *DATA, *SMALL, *given(OFFLINE), f"hydra.run.dir={run_dir}") == 0
        return run_dir

    return get


def summary_of(run_dir: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return values


def logged(run_dir: Path, name: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if name in row}


def load(run_dir: Path, name: str = "last") -> dict[str, Any]:
    values: dict[str, Any] = checkpoint.load(run_dir / f"checkpoints/{name}.pt")
    return values


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_pretrained_policy_goes_on_learning(cli: Cli, pretrained: Any, tmp_path: Path) -> None:
    before, run_dir = pretrained(cli), tmp_path / "run"
    words = (
        *given((*ONLINE, "rollback_tolerance=null")),
        f"init_from={before}",
        "hydra.run.dir=run",
    )
    assert cli(*GAME, "trainer=online", *words) == 0
    for name in ("return_mean", "target_return", "return_average", "value_loss"):
        assert set(logged(run_dir, f"online/{name}")) == {1, 2, 3, 4}, name
    assert set(logged(run_dir, "online/policy_loss")) == {2, 3, 4}, "the critic warms up"
    told, data = summary_of(run_dir), summary_of(before)["data"]
    assert told["train"]["trainer"] == "online"
    assert told["train"]["environment_steps"] == 4 * 4 * 6
    assert told["train"]["best_chosen_by"] == "average return of training's own episodes"
    assert told["train"]["best_step"] in (2, 3, 4)
    assert told["data"]["fingerprint"] == data["fingerprint"], "what it has learned from"
    assert told["model"] == summary_of(before)["model"], "the options are the checkpoint's"
    targets = logged(run_dir, "online/target_return")
    assert 0.99 * data["return_max"] <= targets[1] <= 1.1 * data["return_max"]
    last, best = load(run_dir), load(run_dir, "best")
    assert last["state"]["step"] == 4
    assert_same_weights(last["reference"], load(before, "best")["policy"])
    assert best["returns"]["return_max"] >= data["return_max"]
    assert "critic" not in best, "weights only"
    assert cli("evaluate", "checkpoint=run", "evaluator.episodes=1", "evaluator.num_workers=0") == 0
    assert cli("probe", "checkpoint=run", "episodes=2", "gradient_episodes=1") == 0


def test_a_real_warehouse(cli: Cli, smoke: tuple[str, ...], tmp_path: Path, capsys: Any) -> None:
    assert cli(*smoke, "evaluator.baselines=false", "hydra.run.dir=offline") == 0
    words = (
        *("train", "trainer=online", "init_from=offline", "env.options.max_steps=40"),
        *("device=cpu", "threads=1", "evaluator.baselines=false", "evaluator.episodes=2"),
        *given(
            ("iterations=2", "episodes=3", "return_window=1", "critic_warmup=0", "bptt_length=15")
        ),
    )
    assert cli(*words, "hydra.run.dir=run") == 0
    assert summary_of(tmp_path / "run")["train"]["environment_steps"] == 2 * 3 * 40
    capsys.readouterr()
    for other, told in (
        ("env.scenario=tiny-4ag", "n_agents: 2 against 4"),
        ("env.reward=alberdice", "reward: 'deliveries' against 'alberdice'"),
    ):
        assert cli(*words, other) == 2
        shown = " ".join(capsys.readouterr().err.split())
        assert "init_from=offline and what it is to be trained for do not fit together" in shown
        assert told in shown
        assert "Traceback" not in shown


def test_from_scratch(cli: Cli, tmp_path: Path) -> None:
    """No data set is looked for; no leash; what was never averaged enough is still evaluated."""
    short = ("iterations=1", "elite_buffer_size=0", "bc_coef=0")
    assert cli(*GAME, *SMALL, "trainer=online", *given((*ONLINE, *short)), "hydra.run.dir=run") == 0
    told = summary_of(tmp_path / "run")
    assert not told["data"]
    assert told["train"]["best_step"] == 0
    assert load(tmp_path / "run")["reference"] is None
    assert not (tmp_path / "data").exists()
    assert (
        cli(
            "evaluate",
            "checkpoint=run",
            "evaluator.target_returns=[max]",
            "evaluator.num_workers=0",
        )
        == 0
    )


def test_a_feed_forward_policy(cli: Cli, tmp_path: Path, capsys: Any) -> None:
    mlp = ("model=mlp", "model.d_model=8")
    assert cli(*GAME, *DATA, *mlp, *given(OFFLINE), "hydra.run.dir=offline") == 0
    online = ("trainer=online", *given(ONLINE))
    assert cli(*GAME, *online, "init_from=offline", "hydra.run.dir=run") == 0
    told = summary_of(tmp_path / "run")
    assert told["model"]["name"] == "mlp", "taken from the checkpoint"
    assert cli(*GAME, *online, *mlp, "hydra.run.dir=scratch") == 0
    assert cli("evaluate", "checkpoint=run", "evaluator.episodes=1", "evaluator.num_workers=0") == 0
    capsys.readouterr()
    assert cli("probe", "checkpoint=run") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "its agents decide alone" in shown and "Traceback" not in shown


def test_mappo_follows_icq(cli: Cli, tmp_path: Path) -> None:
    """Any offline algorithm may come first; a critic's run goes on from its last weights."""
    words = (
        *(*GAME, *DATA, *SMALL, "trainer=offline_online", "algorithm=icq"),
        *("algorithm.critic_width=8", "algorithm.target_update_interval=2"),
        *given(OFFLINE, "trainer.offline"),
        *given((*ONLINE, "iterations=2"), "trainer.online"),
    )
    assert cli(*words, "hydra.run.dir=run") == 0
    offline = tmp_path / "run/offline"
    assert set(logged(offline, "offline/critic_loss")) == {6}
    assert set(logged(offline, "validation/critic_loss")) == {6}
    last = load(offline)
    assert set(last["targets"]) == {"critic", "mixing"}
    assert_same_weights(load(offline, "best")["policy"], last["policy"])
    assert_same_weights(load(tmp_path / "run")["reference"], last["policy"])


BOTH = (
    *(*GAME, *DATA, *SMALL, "trainer=offline_online", "model.dropout=0.2"),
    *given(OFFLINE, "trainer.offline"),
    *given((*ONLINE, "iterations=40", "bc_coef=0.1", "bc_batch_size=2"), "trainer.online"),
    *("online_algorithm.elite_buffer_size=2", "trainer.offline.steps=40"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Cli], Path]:
    """Return what makes the undisturbed run, once for all tests that compare with it."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"

    def get(cli: Cli) -> Path:
        if not run_dir.exists():
            assert cli(*BOTH, f"hydra.run.dir={run_dir}") == 0
        return run_dir

    return get


def assert_as_if_undisturbed(run_dir: Path, whole: Path) -> None:
    assert (run_dir / "DONE").exists()
    for name in ("last", "best"):
        one, other = load(run_dir, name), load(whole, name)
        assert one["state"] | {"seconds": 0} == other["state"] | {"seconds": 0}
        assert_same_weights(one["policy"], other["policy"])
    assert_same_weights(load(run_dir)["critic"], load(whole)["critic"])
    name = "online/return_mean"
    assert logged(run_dir, name) == logged(whole, name)
    assert summary_of(run_dir)["train"] == summary_of(whole)["train"]


def test_both_stages_in_one_run(cli: Cli, whole: Any) -> None:
    run_dir = whole(cli)
    assert load(run_dir / "offline")["state"]["step"] == 40
    assert set(logged(run_dir / "offline", "offline/loss")) >= {40}
    assert set(logged(run_dir, "online/return_mean")) == set(range(1, 41))
    assert_same_weights(load(run_dir)["reference"], load(run_dir / "offline", "best")["policy"])
    assert summary_of(run_dir)["train"]["trainer"] == "online"
    assert (run_dir / "offline/provenance.json").exists()


@pytest.mark.parametrize("stage", ["offline", "."])
def test_kill_9_in_either_stage_changes_nothing(
    cli: Cli, start: Start, whole: Any, tmp_path: Path, stage: str
) -> None:
    undisturbed, saved = whole(cli), tmp_path / "broken" / stage / "checkpoints/last.pt"
    words = (*BOTH, "hydra.run.dir=broken")
    process = start(*words)
    end = time.monotonic() + PATIENCE
    while not saved.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert not (tmp_path / "broken/DONE").exists()
    assert cli(*words, "resume=auto") == 0
    assert_as_if_undisturbed(tmp_path / "broken", undisturbed)


def test_stopped_between_the_stages(
    cli: Cli, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage begins in another process than the first ended in."""
    undisturbed, words = whole(cli), (*BOTH, "hydra.run.dir=broken")

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fine_tuning", stop)
        assert cli(*words) == 130
    assert load(tmp_path / "broken/offline")["state"]["step"] == 40
    torch.randn(7)
    assert cli(*words, "resume=auto") == 0
    assert_as_if_undisturbed(tmp_path / "broken", undisturbed)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trainer=online", "trainer.steps=3"], "trainer.steps: does not go with trainer=online"),
        (["trainer.iterations=3"], "trainer.iterations: does not go with trainer=offline"),
        (["trainer=online", "algorithm.freeze=[E]"], "algorithm.freeze: got 'E', expected"),
        (["trainer=online", "trainer.iteration=3"], "Did you mean 'iterations'?"),
        (["trainer=online", "init_from=nowhere"], "There is no nowhere"),
        (["model=mlp", "model.message=none"], "model.message: does not go with model=mlp"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes(cli: Cli, capsys: Any, words: list[str], told: str) -> None:
    assert cli(*GAME, *words) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert told in shown
    assert "Traceback" not in shown
