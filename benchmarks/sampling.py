"""Time the drawing of batches: from memory, from a file, and beside a training step.

Batches are 64 whole episodes of 500 steps with the sizes of RWARE tiny-4ag (4 agents, 71 features,
518 of the state for each). The data are random bits, 0.3 GB of them, written to a temporary folder
and read from there through the system's file cache, as after a first epoch; the disk's own time is
not measured. In turns, against the machine's drift:

* memory: the sampler on arrays in memory, and the same rows by one `numpy.take` per array;
* on demand: the sampler on an uncompressed file, its rate as a share of memory's;
* compressed: the same through HDF5's decompression, why working copies are made;
* step: one training step of the default policy on such a batch, sampling included;
* steps without and with the next batch prepared in a thread, from the file.

    python benchmarks/sampling.py [--repeats 20] [--steps 5] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mads4.algorithms.base import Context
from mads4.algorithms.bc import BCConfig
from mads4.data.dataset import Dataset
from mads4.data.on_demand import on_demand
from mads4.data.sampler import SequenceSampler
from mads4.data.store import read_dataset, write_dataset
from mads4.envs.registry import EnvFactory
from mads4.models import Mads4Policy
from mads4.training.offline import OfflineTrainer
from mads4.training.prefetch import DeviceBatches
from mads4.types import EnvSpec, Episode

BATCH, STEPS, EPISODES = 64, 500, 200
COMPRESSED = 3
"""Batches from the compressed file; each takes long enough to stand out from noise."""
CPU = torch.device("cpu")
LARGE = ("observation", "state", "available_actions", "action")


def main() -> None:
    """Run the benchmark and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="batches from memory and file")
    parser.add_argument("--steps", type=int, default=5, help="training steps of each kind")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args.repeats, args.steps)
    sys.stdout.write("".join(f"{name:<34}{value}\n" for name, value in figures.items()))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, repeats: int, steps: int) -> dict[str, Any]:
    """Return medians in milliseconds, and the ratios that travel."""
    with closing(EnvFactory("rware", {"scenario": "tiny-4ag"})()) as env:
        spec = env.spec
    for name in ("plain", "compressed"):
        path = folder / f"{name}.h5"
        write_dataset(path, spec, _episodes(spec), compress=name == "compressed")
    memory, plain = read_dataset(folder / "plain.h5", verify=False), on_demand(folder / "plain.h5")
    times = _batch_times(memory, plain, on_demand(folder / "compressed.h5"), repeats)
    times |= _step_times(memory, plain, steps)
    middle = {name: statistics.median(found) for name, found in times.items()}
    batch_mb = sum(getattr(memory, name)[:STEPS].nbytes for name in LARGE) * BATCH / 1e6
    return {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "batch": f"{BATCH} x {STEPS} steps x {spec.n_agents} agents, {batch_mb:.0f} MB",
        **{f"{name}_ms": round(value, 1) for name, value in middle.items()},
        "memory_ms_min_max": [round(f(times["memory"]), 1) for f in (min, max)],
        "on_demand_ms_min_max": [round(f(times["on_demand"]), 1) for f in (min, max)],
        "memory_gb_per_second": round(batch_mb / middle["memory"], 2),
        "on_demand_rate_of_memory": round(middle["memory"] / middle["on_demand"], 3),
        "take_rate_of_blocks": round(middle["memory"] / middle["memory_take"], 3),
        "sampling_share_of_step": round(middle["memory"] / middle["step"], 4),
        "on_demand_share_of_step": round(middle["on_demand"] / middle["step"], 4),
        "step_ahead_over_step": round(middle["step_on_demand_ahead"] / middle["step_on_demand"], 3),
    }


def _batch_times(
    memory: Dataset, plain: Dataset, compressed: Dataset, repeats: int
) -> dict[str, list[float]]:
    samplers = {
        name: SequenceSampler(data, BATCH)
        for name, data in (("memory", memory), ("on_demand", plain), ("compressed", compressed))
    }
    times: dict[str, list[float]] = {name: [] for name in (*samplers, "memory_take")}
    for step in range(-2, repeats):
        for name, sampler in samplers.items():
            if name != "compressed" or step < COMPRESSED:
                times[name].append(_milliseconds(sampler.batch, step % EPISODES))
        times["memory_take"].append(_milliseconds(_taken, memory, step % EPISODES))
    return {name: found[2:] for name, found in times.items()}  # without warming up


def _taken(data: Dataset, seed: int) -> list[Any]:
    """Gather a batch's rows by one index operation per array; without what is derived from them."""
    episodes = np.random.default_rng(seed).permutation(len(data))[:BATCH]
    rows = (data.start[episodes][:, None] + np.arange(STEPS)).reshape(-1)
    arrays = [getattr(data, name) for name in LARGE]
    return [np.take(array, rows, axis=0) for array in (*arrays, data.return_to_go)]


def _step_times(memory: Dataset, plain: Dataset, steps: int) -> dict[str, list[float]]:
    trainers = {
        "step": _trainer(memory, ahead=False),
        "step_on_demand": _trainer(plain, ahead=False),
        "step_on_demand_ahead": _trainer(plain, ahead=True),
        "step_ahead": _trainer(memory, ahead=True),
    }
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(steps + 1):
        for name, trainer in trainers.items():
            times[name].append(_milliseconds(trainer.update, step))
    return {name: found[1:] for name, found in times.items()}


def _trainer(data: Dataset, ahead: bool) -> OfflineTrainer:
    torch.manual_seed(0)
    context = Context(0, CPU, 10_000)
    settings = BCConfig(warmup_steps=0, schedule="constant")
    sampler = SequenceSampler(data, BATCH)
    policy = Mads4Policy(data.spec, dropout=0.1)
    trainer = OfflineTrainer(settings.build(policy, context), sampler, data)
    trainer._batches = DeviceBatches(sampler.batch, CPU, ahead=ahead, steps=context.steps)
    return trainer


def _episodes(spec: EnvSpec) -> Iterator[Episode]:
    n, rows = spec.n_agents, spec.n_agents if spec.state_per_agent else 1
    for index in range(EPISODES):
        rng = np.random.default_rng(index)
        yield Episode(
            observation=(rng.random((STEPS, n, spec.obs_dim)) < 0.1).astype(np.float32),
            state=(rng.random((STEPS, rows, spec.state_dim)) < 0.1).astype(np.uint8),
            available_actions=np.ones((STEPS, n, spec.n_actions), dtype=np.bool_),
            action=rng.integers(spec.n_actions, size=(STEPS, n)),
            reward=rng.integers(0, 2, STEPS).astype(np.float32),
            terminated=False,
            truncated=True,
            seed=index,
        )


def _milliseconds(work: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
