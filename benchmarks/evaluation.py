"""Time an evaluation of the default policy on RWARE, and its parts.

32 episodes of tiny-2ag, 32 environments at a time, default policy (3 blocks, H = N = 96,
message=output, random weights). For each number of worker processes, alternately, against the
machine's drift:

* environments: random actions without a policy, as fast as the processes go;
* whole: `mads4.rollout.rollout`, its share of the above, and the policy's time in it.

Beside them the policy's time for one call on its own, for 1 and 32 environments, and a 2048 x 2048
float32 product on one thread as control. Starting the processes is timed, too, and not part of
the rest.

    python benchmarks/evaluation.py [--num-workers 0 1 2] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mads4.envs.registry import EnvFactory
from mads4.envs.vector import RESET, STEP, VectorEnv, WorkerLost
from mads4.models import Mads4Policy
from mads4.rollout import rollout
from mads4.rollout.processes import keep_freed_memory
from mads4.rollout.vector import make_vector
from mads4.types import PolicyInput, PolicyOutput

EPISODES, PARALLEL = 32, 32
CONTROL = 2048
CALLS = 300
SCENARIO = "tiny-2ag"


class Stopwatch:
    """A policy that notes how long its decisions take."""

    def __init__(self, policy: Mads4Policy) -> None:
        self._policy = policy
        self.seconds: list[float] = []

    def initial_state(self, batch: int) -> Any:
        """Return the policy's."""
        return self._policy.initial_state(batch)

    def reset_rows(self, state: Any, rows: torch.Tensor) -> Any:
        """Return the policy's."""
        return self._policy.reset_rows(state, rows)

    def step(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        """Decide, and note how long it takes."""
        began = time.perf_counter()
        decided = self._policy.step(inputs, state)
        self.seconds.append(time.perf_counter() - began)
        return decided


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="length of an episode")
    parser.add_argument("--precision", choices=["float32", "float64"], default="float64")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    figures = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "precision": args.precision,
        "policy_call": policy_calls(args.repeats),
        "evaluation": evaluations(args.num_workers, args.repeats, args.steps, args.precision),
        "control_gflops": round(control_gflops()),
    }
    sys.stdout.write(as_text(figures))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def make_policy(precision: str) -> Mads4Policy:
    """Return the default policy for the scenario."""
    torch.manual_seed(0)
    with closing(EnvFactory("rware", {"scenario": SCENARIO})()) as env:
        policy = Mads4Policy(env.spec, message="output")
    return policy.to(getattr(torch, precision)).eval()


def policy_calls(repeats: int) -> list[dict[str, Any]]:
    """Return one decision's median time, in ms, for each precision and number of environments."""
    rows = []
    for precision in ("float32", "float64"):
        policy = make_policy(precision)
        for environments in (1, PARALLEL):
            times = [t for _ in range(repeats) for t in _decisions(policy, environments)]
            rows.append(
                {
                    "precision": precision,
                    "environments": environments,
                    "ms": round(statistics.median(times) * 1e3, 3),
                }
            )
    return rows


def _decisions(policy: Mads4Policy, environments: int) -> list[float]:
    spec, rng, times = policy.spec, np.random.default_rng(0), []
    n = spec.n_agents
    views = n if spec.state_per_agent else 1
    inputs = PolicyInput(
        observation=torch.randn(environments, n, spec.obs_dim),
        state=torch.randint(0, 2, (environments, views, spec.state_dim), dtype=torch.uint8),
        available_actions=torch.ones(environments, n, spec.n_actions, dtype=torch.bool),
        return_to_go=torch.ones(environments),
        uniform=torch.from_numpy(rng.random((environments, n))),
        order_key=torch.from_numpy(rng.random((environments, n))),
    )
    with torch.inference_mode():
        state = policy.initial_state(environments)
        for _ in range(CALLS):
            began = time.perf_counter()
            _, state = policy.step(inputs, state)
            times.append(time.perf_counter() - began)
    return times[CALLS // 10 :]


def evaluations(
    counts: list[int], repeats: int, steps: int, precision: str
) -> list[dict[str, Any]]:
    """Return medians for each number of worker processes, measured alternately."""
    policy = make_policy(precision)
    factory = EnvFactory("rware", {"scenario": SCENARIO, "options": {"max_steps": steps}})
    measured: dict[int, list[dict[str, float]]] = {workers: [] for workers in counts}
    starts: dict[int, float] = {}
    with ExitStack() as stack:
        vectors: dict[int, VectorEnv] = {}
        for workers in counts:
            began = time.perf_counter()
            vectors[workers] = stack.enter_context(
                closing(make_vector(factory, PARALLEL, workers=workers))
            )
            _order(vectors[workers], RESET)
            starts[workers] = time.perf_counter() - began
        for _ in range(repeats):
            for workers, envs in vectors.items():
                measured[workers].append(
                    {"environments": _environments_alone(envs, steps)} | _whole(envs, policy, steps)
                )
    return [_row(workers, starts[workers], measured[workers]) for workers in counts]


def _row(workers: int, start: float, measured: list[dict[str, float]]) -> dict[str, Any]:
    def median(of: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(of, measured))

    return {
        "workers": workers,
        "start_s": round(start, 2),
        "environment_steps_per_s": round(median(lambda m: m["environments"])),
        "whole_steps_per_s": round(median(lambda m: m["whole"])),
        "share": round(median(lambda m: m["whole"] / m["environments"]), 3),
        "policy_ms_per_call": round(median(lambda m: m["policy_ms"]), 2),
        "policy_calls": round(median(lambda m: m["calls"])),
        "policy_seconds_share": round(median(lambda m: m["policy_share"]), 3),
    }


def _environments_alone(envs: VectorEnv, steps: int) -> float:
    """Return environment steps per second with random actions."""
    spec = envs.spec
    actions = np.random.default_rng(0).integers(
        spec.n_actions, size=(steps, PARALLEL, spec.n_agents)
    )
    _order(envs, RESET)
    groups = envs.groups(PARALLEL)
    began = time.perf_counter()
    envs.buffers.order[:] = STEP
    for group in groups:
        envs.buffers.action[group] = actions[0, group]
        envs.send(group)
    for action in actions[1:]:
        for group in groups:
            _require_none_lost(envs.wait(group))
            envs.buffers.action[group] = action[group]
            envs.send(group)
    for group in groups:
        _require_none_lost(envs.wait(group))
    return PARALLEL * steps / (time.perf_counter() - began)


def _whole(envs: VectorEnv, policy: Mads4Policy, steps: int) -> dict[str, float]:
    """Return environment steps per second of an evaluation, and the policy's part in it."""
    watch = Stopwatch(policy)
    began = time.perf_counter()
    played = list(rollout(watch, envs, EPISODES, seed=0, target_return=30.0))
    seconds = time.perf_counter() - began
    return {
        "whole": sum(episode.length for episode in played) / seconds,
        "policy_ms": statistics.median(watch.seconds) * 1e3,
        "policy_share": sum(watch.seconds) / seconds,
        "calls": len(watch.seconds),
    }


def _order(envs: VectorEnv, order: int) -> None:
    """Let all environments do the same, and wait for them."""
    envs.buffers.order[:] = order
    for group in envs.groups(PARALLEL):
        envs.send(group)
        _require_none_lost(envs.wait(group))


def _require_none_lost(losses: list[WorkerLost]) -> None:
    if losses:
        raise RuntimeError(f"a worker process {losses[0].reason}: nothing to measure")


def control_gflops() -> float:
    """Return the speed of a large product on one thread."""
    left, right = torch.randn(2, CONTROL, CONTROL).unbind()
    times = []
    for _ in range(4):
        began = time.perf_counter()
        _ = left @ right
        times.append(time.perf_counter() - began)
    return 2 * CONTROL**3 / min(times) / 1e9


def as_text(figures: dict[str, Any]) -> str:
    """Return the figures as two tables."""
    parts = [
        f"control {figures['control_gflops']} GFLOP/s (one thread), {figures['cores']} cores\n"
    ]
    for name in ("policy_call", "evaluation"):
        rows = figures[name]
        parts.append("\n" + "".join(f"{key:>25}" for key in rows[0]) + "\n")
        parts += ["".join(f"{value:>25}" for value in row.values()) + "\n" for row in rows]
    return "".join(parts)


if __name__ == "__main__":
    main()
