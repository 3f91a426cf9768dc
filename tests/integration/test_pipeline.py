"""`mads4 train` from configuration to evidence, on the real warehouse and on a user's own parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fakes import SPEC, matching_data
from mads4.data.store import read_header, write_dataset
from mads4.logging import read_metrics
from mads4.models import Mads4Policy
from mads4.training import checkpoint
from mads4.types import EnvSpec

Cli = Callable[..., int]
OWN = ("experiment=smoke", "env=custom", "env.factory=fakes:MatchingEnv", "device=cpu")
RANDOM = ("dataset.behavior_policy=random", "dataset.num_workers=1", "env.options.masked=false")


@pytest.fixture(scope="module")
def trained(
    smoke: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Cli], Path]:
    """Return what trains once for all tests of this file, and gives the run directory."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"

    def get(cli: Cli) -> Path:
        if not run_dir.exists():
            assert cli(*smoke, f"hydra.run.dir={run_dir}") == 0
        return run_dir

    return get


def summary_of(run_dir: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return values


def test_the_run_directory_is_the_documented_one(cli: Cli, trained: Any, recording: Path) -> None:
    run_dir = trained(cli)
    assert {path.name for path in run_dir.iterdir()} == {
        *(".hydra", "config.yaml", "provenance.json", "train.log", "DONE"),
        *("metrics.jsonl", "tensorboard", "checkpoints", "summary.json", "result.png"),
    }
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["trainer"]["steps"] == 4
    assert config["env"]["options"] == {"max_steps": 40}
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["seed"] == 0
    assert provenance["reward_definition"] == "deliveries"
    assert provenance["environment"]["scenario"] == "tiny-2ag"
    assert provenance["dataset"]["fingerprint"] == read_header(recording).fingerprint
    assert provenance["machine"]["device"] == "cpu"
    log = (run_dir / "train.log").read_text()
    assert "run directory" in log
    assert "Traceback" not in log


def test_the_summary_says_how_it_went(cli: Cli, trained: Any) -> None:
    run_dir = trained(cli)
    summary = summary_of(run_dir)
    assert set(summary["eval"]) == {"1.1*max", "mean"}
    for values in summary["eval"].values():
        assert values["episodes"] == 2
        assert values["length_mean"] == 40
        low, high = values["return_ci95"]
        assert low <= values["return_mean"] <= high
        assert values["return_mean"] == values["deliveries_mean"]
        assert {"normalized_score", "return_std", "return_iqm"} <= values.keys()
    data = summary["data"]
    assert summary["eval"]["mean"]["target_return"] == pytest.approx(data["return_mean"])
    assert summary["eval"]["1.1*max"]["target_return"] == pytest.approx(1.1 * data["return_max"])
    assert (data["episodes"], data["quality"]) == (6, "expert")
    assert set(summary["baselines"]) == {"random", "expert"}
    assert {"collect_s", "train_s", "evaluate_s", "agent_steps_per_s"} <= summary["time"].keys()
    assert all(value > 0 for value in summary["time"].values())
    assert summary["reward_definition"] == "deliveries"
    train = summary["train"]
    assert train["steps"] == 4
    assert train["best_step"] in (2, 4)
    metrics = read_metrics(run_dir)
    assert metrics["validation/loss"].min() == train["best_validation_loss"]
    assert metrics["step"].tolist() == [1, 2, 3, 4]
    assert metrics["offline/loss"].notna().all()


def test_the_picture_opens(cli: Cli, trained: Any) -> None:
    from PIL import Image

    with Image.open(trained(cli) / "result.png") as picture:
        picture.load()
        assert picture.width > 800


def test_tensorboard_shows_scalars_a_figure_and_the_configuration(cli: Cli, trained: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained(cli) / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {
        *("offline/loss", "offline/accuracy", "offline/gradient_norm"),
        *("offline/agent_steps_per_second", "validation/loss", "validation/accuracy"),
        *("eval/return_mean.mean", "eval/return_mean.1.1xmax", "eval/normalized_score.mean"),
    } <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("offline/loss")] == [1, 2, 3, 4]
    metrics = read_metrics(trained(cli))
    shown = [event.value for event in events.Scalars("offline/loss")]
    assert shown == pytest.approx(metrics["offline/loss"].tolist())
    assert "eval/target_against_achieved" in tags["images"]
    (text,) = [tag for tag in tags["tensors"] if tag.startswith("config")]
    (event,) = events.Tensors(text)
    assert '"steps": 4' in event.tensor_proto.string_val[0].decode()


def test_checkpoints_are_safe_to_load_and_enough_to_act(cli: Cli, trained: Any) -> None:
    run_dir = trained(cli)
    for name in ("last", "best"):
        path = run_dir / f"checkpoints/{name}.pt"
        content = torch.load(path, weights_only=True)
        assert content["format"] == checkpoint.FORMAT
        payload = checkpoint.load(path)
        options = {key: value for key, value in payload["model"].items() if key != "name"}
        policy = Mads4Policy(EnvSpec.from_dict(payload["spec"]), **options)
        policy.load_state_dict(payload["policy"])
        assert payload["data"]["episodes"] == 6


def test_the_generated_data_set_is_recorded_and_reused(cli: Cli, tmp_path: Path) -> None:
    """The whole way, pilot and recording included, and a second run that finds the data there."""
    words = ("train", "experiment=smoke", "env.options.max_steps=60", "dataset.num_workers=1")
    small = ("evaluator.baselines=false", "evaluator.episodes=1", "trainer.steps=2", "device=cpu")
    assert cli(*words, *small, "hydra.run.dir=first") == 0
    (path,) = (tmp_path / "data").glob("*.h5")
    written = path.stat().st_mtime_ns
    header = read_header(path)
    assert len(header) == 6
    assert header.behavior["quality"] == "expert"
    assert header.behavior["options"] == {"max_steps": 60}
    assert cli(*words, *small, "hydra.run.dir=second") == 0
    assert path.stat().st_mtime_ns == written
    first, second = summary_of(tmp_path / "first"), summary_of(tmp_path / "second")
    assert first["data"] == second["data"]
    for target, values in first["eval"].items():
        assert values["return_mean"] == second["eval"][target]["return_mean"]
    assert first["train"] == second["train"], "the same seed gives the same weights"


def test_init_from_takes_the_weights(cli: Cli, trained: Any, smoke: Any, tmp_path: Path) -> None:
    run_dir = trained(cli)
    words = (*smoke, "trainer.steps=1", "algorithm.learning_rate=1e-12", "seed=7")
    tiny = (
        "algorithm.ssm_learning_rate={A: 1e-12, B: 1e-12, dt: 1e-12}",
        "algorithm.weight_decay=0",
        "hydra.run.dir=next",
    )
    assert cli(*words, *tiny, f"init_from={run_dir}") == 0
    source = checkpoint.load(run_dir / "checkpoints/best.pt")["policy"]
    target = checkpoint.load(tmp_path / "next/checkpoints/last.pt")["policy"]
    for name, value in source.items():
        torch.testing.assert_close(target[name], value, rtol=1e-5, atol=1e-6)


def test_init_from_refuses_other_sizes(
    cli: Cli, trained: Any, smoke: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = trained(cli)
    assert cli(*smoke, "model.d_model=8", f"init_from={run_dir}") == 2
    error = capsys.readouterr().err
    assert "was built with other model settings" in error
    assert "'d_model': 16" in error
    assert "give the same model.* options" in error
    assert "Traceback" not in error
    assert cli(*smoke, "init_from=nowhere") == 2
    assert "There is no nowhere" in capsys.readouterr().err


def test_data_of_another_environment_are_refused(
    cli: Cli, smoke: Any, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*smoke, "env.scenario=small-2ag") == 2
    error = capsys.readouterr().err
    assert f"the data set {recording} and the environment do not fit together" in error
    assert "scenario: 'tiny-2ag' against 'small-2ag'" in error


def test_a_users_environment_and_reader(cli: Cli, tmp_path: Path) -> None:
    reader = ("dataset.factory=fakes:matching_data", "dataset.options.episodes=7")
    words = ("dataset=custom", *reader, "dataset.episodes=5", "hydra.run.dir=run")
    assert cli("train", *OWN, *words) == 0
    summary = summary_of(tmp_path / "run")
    assert summary["env"]["name"] == "fake"
    assert summary["data"]["episodes"] == 5  # the first five of seven
    assert summary["data"]["behavior"]["share"] == 1.0
    assert set(summary["baselines"]) == {"random"}
    again = ("evaluate", "checkpoint=run", "evaluator.episodes=3", "hydra.run.dir=again")
    assert cli(*again, "env_factory=fakes:MatchingEnv") == 0
    assert summary_of(tmp_path / "again")["eval"]["mean"]["episodes"] == 3


def test_a_users_environment_with_a_file_and_with_a_random_recording(
    cli: Cli, tmp_path: Path
) -> None:
    data = matching_data()
    write_dataset("own.h5", SPEC, [data.episode(k) for k in range(len(data))])
    words = ("dataset=file", "dataset.path=own.h5", "hydra.run.dir=one")
    assert cli("train", *OWN, *words) == 0
    assert cli("train", *OWN, *RANDOM, "hydra.run.dir=two") == 0
    assert summary_of(tmp_path / "two")["data"]["behavior"]["name"] == "random"


def test_a_lone_episode_is_not_enough(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("train", *OWN, *RANDOM, "dataset.episodes=1") == 2
    assert "training needs at least two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reader", "code", "message"),
    [
        ("no_such_module:read", 2, "No module named 'no_such_module'"),
        ("fakes:no_such_function", 2, "no_such_function"),
        ("fakes:make_batch", 2, "returned SequenceBatch, expected"),
        ("fakes:matching_episode", 2, "missing a required argument: 'index'"),
    ],
)
def test_readers_that_are_none(
    cli: Cli, reader: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("train", *OWN, "dataset=custom", f"dataset.factory={reader}") == code
    error = capsys.readouterr().err
    assert message in error
    assert "dataset.factory" in error


def test_a_bug_in_a_users_reader_keeps_its_traceback(cli: Cli, tmp_path: Path) -> None:
    words = ("dataset=custom", "dataset.factory=fakes:matching_data", "dataset.options.bad=true")
    assert cli("train", *OWN, *words, "hydra.run.dir=run") == 1
    failed = (tmp_path / "run/FAILED").read_text()
    assert "Traceback" in failed
    assert "a bug in the user's reader" in failed


def test_periodic_evaluations_are_logged_and_change_nothing(
    cli: Cli, smoke: tuple[str, ...], tmp_path: Path, recording: Path
) -> None:
    words = ("trainer.eval_interval=2", "trainer.eval_episodes=1")
    assert cli(*smoke, "hydra.run.dir=plain") == 0
    assert cli(*smoke, *words, "hydra.run.dir=watched") == 0
    metrics = read_metrics(tmp_path / "watched").set_index("step")
    assert metrics["eval/return_mean"].dropna().index.tolist() == [2, 4]
    assert "eval/return_mean" not in read_metrics(tmp_path / "plain")
    plain, watched = (
        checkpoint.load(tmp_path / run / "checkpoints" / "last.pt") for run in ("plain", "watched")
    )
    for name, value in plain["policy"].items():
        assert torch.equal(value, watched["policy"][name]), name
    assert torch.equal(plain["random"]["cpu"], watched["random"]["cpu"])
