"""When the loop does what, how it stops, and that it goes on as if it had never stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import SPEC, matching_data
from mads4.algorithms.base import Context, SSMLearningRates
from mads4.algorithms.bc import BCConfig
from mads4.data.sampler import SequenceSampler
from mads4.errors import UserError
from mads4.logging import Tracker
from mads4.models import Mads4Policy
from mads4.training import checkpoint
from mads4.training.checkpoint import TrainState
from mads4.training.loop import Checkpoints, Intervals, fit
from mads4.training.offline import OfflineTrainer

STEPS = 8
INTERVALS = Intervals(steps=STEPS, log=1, validation=4, checkpoint=3, keep=5)
OnStep = Callable[[TrainState, Mapping[str, float]], None]


def make_trainer() -> OfflineTrainer:
    torch.manual_seed(3)
    policy = Mads4Policy(SPEC, n_layers=1, d_model=8, d_state=4, message_dim=2, dropout=0.3)
    training, held_out = matching_data().split(0.25, 0)
    rates = SSMLearningRates(B=None, dt=None)
    settings = BCConfig(learning_rate=1e-2, ssm_learning_rate=rates, warmup_steps=2)
    sampler = SequenceSampler(training, batch_size=2, window=5, seed=1)
    algorithm = settings.build(policy, Context(0, torch.device("cpu"), STEPS))
    return OfflineTrainer(algorithm, sampler, held_out)


def run(
    folder: Path,
    on_step: OnStep = lambda state, metrics: None,
    intervals: Intervals = INTERVALS,
) -> OfflineTrainer:
    """What a process does: build everything anew, restore, train."""
    trainer = make_trainer()
    checkpoints = Checkpoints(folder / "checkpoints", {"about": "test"})
    state = checkpoints.restore(trainer)
    with Tracker(folder, tensorboard=False, start_step=state.step) as tracker:
        fit(trainer, state, intervals, checkpoints, tracker, on_step)
    return trainer


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in row.items() if k not in ("time", "offline/agent_steps_per_second")}
        for row in rows
    ]


def assert_same_weights(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class KilledError(Exception):
    """The process vanishes: nothing after it runs."""


def stop_at(step: int, how: Callable[[], None]) -> OnStep:
    def on_step(state: TrainState, metrics: Mapping[str, float]) -> None:
        if state.step == step:
            how()

    return on_step


def kill() -> None:
    raise KilledError


def test_what_is_left_after_training(tmp_path: Path) -> None:
    seen: list[int] = []
    trainer = run(tmp_path, lambda state, metrics: seen.append(state.step))
    assert seen == list(range(1, STEPS + 1))
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"last.pt", "best.pt", "step_00000005.pt"}
    last, best = checkpoint.load(folder / "last.pt"), checkpoint.load(folder / "best.pt")
    assert last["about"] == best["about"] == "test"
    assert last["state"]["step"] == STEPS
    assert_same_weights(last["policy"], trainer.policy.state_dict())
    validations = {
        row["step"]: row["validation/loss"] for row in rows(tmp_path) if "validation/loss" in row
    }
    assert set(validations) == {4, 8}
    assert last["state"]["best_criterion"] == min(validations.values())
    assert (
        best["state"]["step"]
        == last["state"]["best_step"]
        == min(validations, key=lambda k: validations[k])
    )
    assert "optimizer" in last and "optimizer" not in best
    logged = [row["step"] for row in rows(tmp_path) if "offline/loss" in row]
    assert logged == list(range(1, STEPS + 1))


def test_logged_losses_are_means_since_the_last_line(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", intervals=replace(INTERVALS, log=3))
    each = [row["offline/loss"] for row in rows(tmp_path / "a") if "offline/loss" in row]
    mean = {
        row["step"]: row["offline/loss"] for row in rows(tmp_path / "b") if "offline/loss" in row
    }
    assert mean == {
        3: pytest.approx(sum(each[:3]) / 3),
        6: pytest.approx(sum(each[3:6]) / 3),
        8: pytest.approx(sum(each[6:]) / 2),
    }


def test_an_update_need_not_have_every_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Online, the policy rests while the critic warms up, and both do after a fall."""

    def update(trainer: OfflineTrainer, step: int) -> dict[str, torch.Tensor]:
        found = {"always": torch.tensor(float(step))}
        return found if step % 3 == 2 else found | {"loss": torch.tensor(float(step))}

    monkeypatch.setattr(OfflineTrainer, "update", update)
    run(tmp_path, intervals=replace(INTERVALS, log=3))
    logged = [row for row in rows(tmp_path) if "offline/always" in row]
    assert [row["offline/always"] for row in logged] == [1.0, 4.0, 6.5]
    assert [row["offline/loss"] for row in logged] == [0.5, 3.5, 6.5]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_resuming_is_exact_wherever_the_process_died(tmp_path: Path, step: int) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "broken", stop_at(step, kill))
    torch.randn(7)  # another process would have another random stream
    resumed = run(tmp_path / "broken")
    assert_same_weights(resumed.policy.state_dict(), whole.policy.state_dict())
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    for name in ("last", "best", "step_00000005"):
        one, other = (
            checkpoint.load(tmp_path / run_name / f"checkpoints/{name}.pt")
            for run_name in ("whole", "broken")
        )
        assert_same_weights(one["policy"], other["policy"])
        one["state"].pop("seconds"), other["state"].pop("seconds")
        assert one["state"] == other["state"]
    whole_moments, resumed_moments = (
        whole.algorithm.optimizer.state_dict(),
        resumed.algorithm.optimizer.state_dict(),
    )
    for index, moments in whole_moments["state"].items():
        assert_same_weights(moments, resumed_moments["state"][index])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 4, STEPS])
def test_a_signal_saves_the_step_it_came_in(tmp_path: Path, number: int, step: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_at(step, lambda: os.kill(os.getpid(), number)))
    assert signal.getsignal(number) is before
    assert checkpoint.load(tmp_path / "broken/checkpoints/last.pt")["state"]["step"] == step
    resumed, whole = run(tmp_path / "broken"), run(tmp_path / "whole")
    assert_same_weights(resumed.policy.state_dict(), whole.policy.state_dict())
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at(2, twice))
    assert not (tmp_path / "checkpoints/last.pt").exists()


def test_a_finished_training_does_not_go_on(tmp_path: Path) -> None:
    run(tmp_path)
    before = rows(tmp_path)
    steps: list[int] = []
    run(tmp_path, lambda state, loss: steps.append(state.step))
    assert steps == []
    assert rows(tmp_path) == before


def test_time_adds_up_over_processes(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, stop_at(6, kill))
    first = checkpoint.load(tmp_path / "checkpoints/last.pt")["state"]["seconds"]
    run(tmp_path)
    assert checkpoint.load(tmp_path / "checkpoints/last.pt")["state"]["seconds"] > first > 0


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    def checkpoints(fingerprint: str) -> Checkpoints:
        return Checkpoints(tmp_path, {"data": {"fingerprint": fingerprint}})

    checkpoints("one").save_last(make_trainer(), TrainState(step=2))
    assert checkpoints("one").restore(make_trainer()).step == 2
    with pytest.raises(UserError, match=r"fingerprint one, but the present one has two.*init_from"):
        checkpoints("two").restore(make_trainer())
