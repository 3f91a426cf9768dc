"""Time one offline training step against a dense matrix product timed in the same run.

The step is the default policy's (3 blocks, H = N = 96, message=output) on 16 whole episodes of 500
steps with 2 agents: forward, backward, gradient clipping and AdamW. The control is a 2048 x 2048
float32 product. Absolute times drift with the machine, so steps and products alternate and the
ratio of their medians is what travels: the published MADS4 code needs 511 ms for this step
where the product runs at about 350 GFLOP/s, which is 10.4 products.

    python benchmarks/offline_step.py [--repeats 15] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mads4.algorithms.base import Context
from mads4.algorithms.bc import BCConfig
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler
from mads4.models import Mads4Policy
from mads4.models.base import parameter_count
from mads4.training.offline import OfflineTrainer
from mads4.types import EnvSpec, Episode

BATCH, STEPS, AGENTS = 16, 500, 2
OBS_DIM, STATE_DIM, ACTIONS = 71, 14, 5
CONTROL = 2048
PUBLISHED_MS, PUBLISHED_GFLOPS = 511.0, 350.0
CONTROL_GFLOP = 2 * CONTROL**3 / 1e9


def main() -> None:
    """Run the benchmark and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=15, help="timed steps (default 15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = measure(args.repeats)
    sys.stdout.write("".join(f"{name:<34}{value}\n" for name, value in figures.items()))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(repeats: int) -> dict[str, Any]:
    """Return medians of the step and of the control, alternating, and their ratio."""
    trainer = make_trainer()
    left, right = torch.randn(2, CONTROL, CONTROL).unbind()
    for step in range(3):
        trainer.update(step)
        _ = left @ right
    steps, products = [], []
    for step in range(repeats):
        steps.append(_milliseconds(partial(trainer.update, step)))
        products.append(min(_milliseconds(lambda: left @ right) for _ in range(3)))
    step_ms, product_ms = statistics.median(steps), statistics.median(products)
    gflops = CONTROL_GFLOP / product_ms * 1e3
    published_products = PUBLISHED_MS / (CONTROL_GFLOP / PUBLISHED_GFLOPS * 1e3)
    return {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "parameters": parameter_count(trainer.policy),
        "step_ms_median": round(step_ms, 1),
        "step_ms_min_max": [round(min(steps), 1), round(max(steps), 1)],
        "agent_steps_per_second": round(BATCH * STEPS * AGENTS / step_ms * 1e3),
        "control_gflops": round(gflops),
        "step_in_products": round(step_ms / product_ms, 2),
        "published_step_in_products": round(published_products, 2),
        "times_faster_than_published": round(published_products / (step_ms / product_ms), 2),
    }


def make_trainer() -> OfflineTrainer:
    """Return a trainer of the default policy on random episodes of the benchmark's sizes."""
    torch.manual_seed(0)
    spec = EnvSpec("random", "benchmark", AGENTS, OBS_DIM, STATE_DIM, ACTIONS, STEPS, "none")
    rng = np.random.default_rng(0)
    data = Dataset.from_episodes(spec, [_episode(rng, k) for k in range(BATCH)])
    policy = Mads4Policy(spec, dropout=0.1)
    settings = BCConfig(warmup_steps=0, schedule="constant")
    algorithm = settings.build(policy, Context(0, torch.device("cpu"), steps=10_000))
    return OfflineTrainer(algorithm, SequenceSampler(data, BATCH), data)


def _episode(rng: np.random.Generator, index: int) -> Episode:
    return Episode(
        observation=rng.standard_normal((STEPS, AGENTS, OBS_DIM)).astype(np.float32),
        state=rng.standard_normal((STEPS, 1, STATE_DIM)).astype(np.float32),
        available_actions=np.ones((STEPS, AGENTS, ACTIONS), dtype=np.bool_),
        action=rng.integers(ACTIONS, size=(STEPS, AGENTS)),
        reward=rng.random(STEPS).astype(np.float32),
        terminated=False,
        truncated=True,
        seed=index,
    )


def _milliseconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
