"""What a researcher adds is one Python file and at most one YAML file, outside the package."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

EXTENDING = Path(__file__).parents[2] / "examples" / "extending"
FILES = {
    "environment": ["meeting.py", "env/meeting.yaml"],
    "data format": ["csv_episodes.py"],
    "model": ["gru.py", "model/gru.yaml"],
    "algorithm": ["weighted_bc.py", "algorithm/weighted_bc.yaml"],
    "message kind": ["probabilities.py", "model/probabilities.yaml"],
}
SHORT = (
    *("trainer.steps=3", "trainer.batch_size=2", "trainer.validation_interval=2"),
    *("device=cpu", "threads=1", "progress=false", "logger=none", "env.options.episode_limit=8"),
    *("evaluator.episodes=2", "evaluator.num_envs=2", "evaluator.num_workers=0"),
    *("evaluator.baseline_episodes=2", "evaluator.video=false", "dataset.validation_fraction=0.4"),
)

Cli = Callable[..., int]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXTENDING))
    monkeypatch.setenv("PYTHONPATH", str(EXTENDING))


def summary(name: str) -> dict[str, object]:
    """Return the summary of the only run called `name`."""
    (run,) = Path("outputs", name).iterdir()
    assert (run / "DONE").exists()
    found: dict[str, object] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found


def write_csv(path: Path, episodes: int) -> None:
    """Play randomly and write the steps down."""
    from meeting import Meeting

    env, rng, rows = Meeting(episode_limit=8), np.random.default_rng(0), []
    for episode in range(episodes):
        now = env.reset(episode)
        while not now.done:
            seen = {f"observation_{i}_{k}": v for (i, k), v in np.ndenumerate(now.observation)}
            action = rng.integers(3, size=2)
            now = env.step(action)
            rows.append(
                {"episode": episode, "reward": now.reward, "terminated": int(now.terminated)}
                | {f"action_{i}": one for i, one in enumerate(action)}
                | seen
            )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_each_extension_is_a_python_file_and_at_most_a_yaml_file() -> None:
    there = {
        str(path.relative_to(EXTENDING))
        for path in EXTENDING.rglob("*")
        if path.suffix in (".py", ".yaml")
    }
    assert there == {name for names in FILES.values() for name in names}
    for names in FILES.values():
        suffixes = [Path(name).suffix for name in names]
        assert suffixes in ([".py"], [".py", ".yaml"])
    readme = (EXTENDING / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in there)


def test_environment_format_model_and_algorithm_train_together(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "episodes.csv", 6)
    names = ("--env", "meeting", "--scenario", "2on5", "--reward", "together")
    words = ("--from", "csv_episodes:open_csv", *names, "--state-encoding", "default", "--quiet")
    assert cli("data", "convert", "episodes.csv", "episodes.h5", *words) == 0
    own = ("--config-dir", str(EXTENDING), "env=meeting", "model=gru", "algorithm=weighted_bc")
    data = ("dataset=file", "dataset.path=episodes.h5")
    assert cli("train", "name=own", *own, *data, *SHORT) == 0
    assert summary("own")["name"] == "own"

    (run,) = Path("outputs/own").iterdir()
    metrics = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert "offline/return" in metrics, "of the algorithm's own losses"
    play = ("evaluate", f"checkpoint={run}", "evaluator.episodes=2", "evaluator.num_workers=0")
    given: tuple[str, ...] = ()
    for word in ("env_factory=meeting:Meeting", "model_factory=gru:GruPolicy"):
        assert cli(*play, *given) == 2
        assert word in capsys.readouterr().err
        given += (word,)
    assert cli(*play, *given) == 0


def test_a_message_kind_trains(cli: Cli) -> None:
    own = ("--config-dir", str(EXTENDING), "env=meeting", "model=probabilities")
    data = ("dataset.behavior_policy=random", "dataset.episodes=6", "dataset.num_workers=1")
    assert cli("train", "name=chain", *own, *data, *SHORT, "algorithm.warmup_steps=1") == 0
    assert summary("chain")["name"] == "chain"
    from meeting import Meeting
    from probabilities import make

    channel = make(Meeting().spec, d_model=4, d_state=2).channel
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    assert torch.equal(channel.write(logits, None, logits), logits.softmax(-1))
