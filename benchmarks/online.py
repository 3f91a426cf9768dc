"""Time online training on RWARE, beside its environments alone, and its update in both views.

Alternately, against the machine's drift, for each number of worker processes:

* environments: random actions without a policy;
* whole: iterations of `mads4.training.online.OnlineTrainer` (random weights), playing and
  learning alternately, and the share of the time spent in rollouts;
* overlapped: the same with `trainer.async_rollout=true`, the next episodes played meanwhile.

Then one optimizer step of the policy on 10 segments of 100 steps, differentiated in the
convolutional and in the recurrent view, and a 2048 x 2048 float32 product as control.

    python benchmarks/online.py [--scenario tiny-4ag] [--num-workers 1 2] [--epochs 2]
        [--width 96] [--bptt-length 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.measure import Control
from mads4.algorithms.base import Context
from mads4.algorithms.mappo import MAPPO, MAPPOConfig
from mads4.algorithms.rollout_buffer import Episodes
from mads4.config import OnlineTrainerConfig
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import RESET, STEP, VectorEnv
from mads4.models import Mads4Policy
from mads4.rollout.vector import make_vector
from mads4.training.collector import Collector
from mads4.training.online import OnlineTrainer

EPISODES = 32
ITERATIONS = 2
"""Timed in a row: with overlapping as many are played as are learned from."""
CPU = torch.device("cpu")


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenario", default="tiny-4ag")
    parser.add_argument("--num-workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--bptt-length", type=int, default=100)
    parser.add_argument("--width", type=int, default=96, help="channels and states")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    make_env = EnvFactory("rware", {"scenario": args.scenario})
    rows = []
    for workers in args.num_workers:
        alone, whole, playing, overlapped = [], [], [], []
        for _ in range(args.repeats):
            alone.append(environments_alone(make_env, workers))
            rate, share = training(make_env, workers, args)
            whole.append(rate)
            playing.append(share)
            overlapped.append(training(make_env, workers, args, async_rollout=True)[0])
        rows.append(
            {
                "num_workers": workers,
                "environments_alone": round(statistics.median(alone)),
                "whole": round(statistics.median(whole)),
                "playing_share": round(statistics.median(playing), 2),
                "overlapped": round(statistics.median(overlapped)),
            }
        )
    best = max(row["environments_alone"] for row in rows)
    for row in rows:
        row["whole_share_of_best_alone"] = round(row["whole"] / best, 2)
        row["overlapped_share_of_best_alone"] = round(row["overlapped"] / best, 2)
    control = Control(2048, CPU)
    figures = {
        "scenario": args.scenario,
        "epochs": args.epochs,
        "width": args.width,
        "bptt_length": args.bptt_length,
        "cores": len(os.sched_getaffinity(0)),
        "loop": rows,
        "update_ms": updates(make_env, args),
        "control_gflops": round(control.gflops(statistics.median(control.sample(5)))),
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def environments_alone(make_env: EnvFactory, workers: int, steps: int = 250) -> float:
    """Return environment steps per second of random actions."""
    with closing(make_vector(make_env, EPISODES, workers=workers)) as envs:
        groups, rng = envs.groups(EPISODES), np.random.default_rng(0)
        _order(envs, groups, RESET)
        began = time.perf_counter()
        for _ in range(steps):
            for rows in groups:
                envs.buffers.action[rows] = rng.integers(
                    envs.spec.n_actions, size=envs.buffers.action[rows].shape
                )
                envs.buffers.order[rows] = STEP
                envs.send(rows)
            for rows in groups:
                envs.wait(rows)
        return steps * EPISODES / (time.perf_counter() - began)


def _order(envs: VectorEnv, groups: list[slice], order: int) -> None:
    for rows in groups:
        envs.buffers.order[rows] = order
        envs.send(rows)
    for rows in groups:
        envs.wait(rows)


def trainer(make_env: EnvFactory, args: Any, **options: Any) -> OnlineTrainer:
    """Return a trainer of a randomly initialized policy, with a KL penalty."""
    torch.manual_seed(0)
    known = MAPPOConfig.model_fields
    given = {"epochs": args.epochs, "critic_warmup": 0, "target_kl": None, **options}
    settings = MAPPOConfig(**{key: given[key] for key in given if key in known})
    rest = {key: given[key] for key in given if key not in known}
    config = OnlineTrainerConfig(episodes=EPISODES, **rest)
    with closing(make_env()) as env:
        policy = Mads4Policy(env.spec, d_model=args.width, d_state=args.width)
    context = Context(0, CPU, config.iterations, pretrained=True)
    algorithm = MAPPO(policy, settings, context)
    return OnlineTrainer(algorithm, Collector(make_env, config, 0, CPU), config, 1.0, CPU)


def training(
    make_env: EnvFactory, workers: int, args: Any, async_rollout: bool = False
) -> tuple[float, float]:
    """Return environment steps per second of the whole loop, and the share spent playing."""
    online = trainer(
        make_env,
        args,
        num_workers=workers,
        bptt_length=args.bptt_length,
        async_rollout=async_rollout,
        iterations=99,
    )
    playing = [0.0]
    play = online.collector.collect

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        try:
            return play(*given)
        finally:
            playing[0] += time.perf_counter() - began

    online.collector.collect = timed  # type: ignore[method-assign,assignment]
    with closing(online):
        online.update(0)  # starts the processes
        before, playing[0] = online.tracker.environment_steps, 0.0
        began = time.perf_counter()
        for step in range(1, 1 + ITERATIONS):
            online.update(step)
        seconds = time.perf_counter() - began
    return (online.tracker.environment_steps - before) / seconds, playing[0] / seconds


def updates(make_env: EnvFactory, args: Any) -> dict[str, float]:
    """Return the milliseconds of one optimizer step of the policy in each view."""
    found = {}
    for view in ("convolutional", "recurrent"):
        online = trainer(make_env, args, unroll_mode=view, num_workers=0)
        with closing(online):
            played = online.collector.collect(online.policy, 0, 1.0)[:2]
        part = online.algorithm.assess(Episodes.of(played, random_order=False))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            online.algorithm.actor_step(part, None)
            times.append(time.perf_counter() - began)
        found[view] = round(1e3 * statistics.median(times), 1)
    return found


if __name__ == "__main__":
    main()
