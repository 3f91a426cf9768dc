from __future__ import annotations

import gc
import time

import pytest
import torch

from harness.measure import Control, Effort, Timing, measure_time

CPU = torch.device("cpu")


def test_quantiles_are_those_of_the_runs() -> None:
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0))
    assert timing.median == 3.0
    assert timing.minimum == 1.0
    assert timing.quantile(0.9) == pytest.approx(4.6)
    assert timing.runs == 5


def test_time_is_that_of_the_action() -> None:
    timing = measure_time(lambda: time.sleep(0.005), Effort(5, 0.0, 60.0), CPU)
    assert timing.runs == 5
    assert 5.0 <= timing.minimum <= timing.median < 500.0


def test_runs_go_on_for_the_shortest_time() -> None:
    timing = measure_time(lambda: time.sleep(0.002), Effort(1, 0.25, 60.0), CPU)
    assert sum(timing.milliseconds) >= 250.0
    assert timing.runs > 5


def test_slow_actions_end_after_the_longest_time_with_two_runs() -> None:
    timing = measure_time(lambda: time.sleep(0.02), Effort(1000, 0.0, 0.01), CPU)
    assert timing.runs == 2


def test_garbage_is_not_collected_while_the_clock_runs() -> None:
    seen: list[bool] = []
    measure_time(lambda: seen.append(gc.isenabled()), Effort(2, 0.0, 1.0), CPU)
    assert not any(seen)
    assert gc.isenabled()


def test_warm_up_runs_do_not_count() -> None:
    calls: list[int] = []
    timing = measure_time(lambda: calls.append(1), Effort(4, 0.0, 1.0), CPU)
    assert len(calls) > timing.runs == 4


def test_the_control_says_its_rate() -> None:
    control = Control(64, CPU)
    assert len(control.sample(3)) == 3
    assert control.timing.runs == 3
    assert control.gflops(1.0) == pytest.approx(2 * 64**3 / 1e-3 / 1e9)
