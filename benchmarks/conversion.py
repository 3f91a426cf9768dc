"""Convert a large folder in AlberDICE's layout: peak memory, and rate against a plain copy.

The folder (5 GB by default, not sparse) is written first: a few real episodes of RWARE tiny-4ag,
repeated with other random actions, so that it compresses as recordings do. `--noise` replaces the
observations by normal random numbers, the worst case.

Then, alternately and each in its own process, for separate memory peaks:

* copy: every file of the folder with `shutil.copyfile`, then fsync, as `cp` does;
* read: every episode read and dropped;
* convert: what ``mads4 data convert`` does, hashes of the sources included, fsync at the end;
* convert, uncompressed: the episodes written without compression.

Before each the operating system is asked to forget the folder's pages (``posix_fadvise``, no rights
needed), so that all read from the disk. Rates are megabytes of the folder per second of wall-clock
time; seconds of CPU are those of all threads, the lowest of the repeats; memory is the process's
highest resident set, in which mapped pages count.

    python benchmarks/conversion.py [--gigabytes 5] [--repeats 3] [--noise] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mads4.data.convert import convert
from mads4.data.formats import open_source
from mads4.data.formats.alberdice_write import write_alberdice
from mads4.data.store import write_dataset
from mads4.envs.registry import EnvFactory
from mads4.types import EnvSpec, Episode

ENVIRONMENT = {"scenario": "tiny-4ag", "reward": "alberdice", "state_encoding": "alberdice"}
DISTINCT = 16
"""Different episodes in the folder."""
RESULT = Path(__file__).parent / "results" / "conversion.json"
TARGETS = {"peak_mib": 1024, "share_of_copy": 0.5}


def main() -> None:
    """Run the benchmark, print its table and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--noise", action="store_true", help="observations of random numbers")
    parser.add_argument("--folder", type=Path, help="where to work; needs twice the size")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--do", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do:
        TASKS[args.do](*args.paths)
        used = resource.getrusage(resource.RUSAGE_SELF)
        sys.stdout.write(f"{used.ru_maxrss / 1024} {used.ru_utime + used.ru_stime}")
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        figures = measure(Path(work), args.gigabytes, args.repeats, args.noise)
    sys.stdout.write(as_text(figures))
    args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a folder's files as they are."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)
        with (target / file.name).open("r+b") as copied:
            os.fsync(copied.fileno())


def read(source: Path, target: Path) -> None:
    """Read all episodes."""
    for episode in open_source("alberdice", source).episodes():
        episode.observation.sum()


def convert_compressed(source: Path, target: Path) -> None:
    """Convert as the command does."""
    convert(open_source("alberdice", source), target)


def convert_uncompressed(source: Path, target: Path) -> None:
    """Write the episodes without compression."""
    recording = open_source("alberdice", source)
    write_dataset(target, recording.spec, recording.episodes(), compress=False)


TASKS = {
    "copy": copy,
    "read": read,
    "convert": convert_compressed,
    "convert, uncompressed": convert_uncompressed,
}


def measure(work: Path, gigabytes: float, repeats: int, noise: bool) -> dict[str, Any]:
    """Write the folder, and time all tasks, alternately."""
    source = work / "buffer"
    spec, distinct = real_episodes(noise)
    write_alberdice(source, spec, repeated(spec, distinct, gigabytes))
    size = total_bytes(source)
    runs: dict[str, list[dict[str, float]]] = {task: [] for task in TASKS}
    for _ in range(repeats):
        for task in TASKS:
            forget(source)
            runs[task].append(run(task, source, work / "target", size))
    copied = statistics.median(each["mb_per_s"] for each in runs["copy"])
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "numpy": np.__version__,
        "folder_mb": round(size / 1e6),
        "episodes": len(np.load(source / "filled.npy", mmap_mode="r")),
        "noise": noise,
        "targets": TARGETS,
        "tasks": [_row(task, each, copied) for task, each in runs.items()],
    }


def real_episodes(noise: bool) -> tuple[EnvSpec, list[Episode]]:
    """Play a few episodes with random available actions."""
    rng = np.random.default_rng(0)
    with closing(EnvFactory("rware", ENVIRONMENT)()) as env:
        episodes = []
        for index in range(DISTINCT):
            steps, now = [], env.reset(index)
            while not now.done:
                before = now
                action = [rng.choice(np.flatnonzero(row)) for row in now.available_actions]
                now = env.step(np.array(action))
                steps.append((before, action, now.reward))
            episodes.append(_episode(steps, index, rng if noise else None))
        return env.spec, episodes


def _episode(steps: list[Any], index: int, noise: np.random.Generator | None) -> Episode:
    observation = np.array([before.observation for before, _, _ in steps], np.float32)
    if noise is not None:
        observation = noise.normal(size=observation.shape).astype(np.float32)
    return Episode(
        observation=observation,
        state=np.array([before.state for before, _, _ in steps]),
        available_actions=np.array([before.available_actions for before, _, _ in steps]),
        action=np.array([action for _, action, _ in steps]),
        reward=np.array([reward for _, _, reward in steps], np.float32),
        terminated=False,
        truncated=True,
        seed=index,
    )


def repeated(spec: EnvSpec, distinct: list[Episode], gigabytes: float) -> Iterator[Episode]:
    """Yield episodes until their rows fill so many gigabytes."""
    n, a = spec.n_agents, spec.n_actions
    row = 4 * (n * spec.obs_dim + spec.state_dim + 2 * n * a + 2 * n + 3) + 9
    for index in range(round(gigabytes * 1e9 / (row * (spec.episode_limit + 1)))):
        yield replace(distinct[index % len(distinct)], seed=index)


def run(task: str, source: Path, target: Path, size: int) -> dict[str, float]:
    """Run one task in a process of its own, and remove what it made."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--do", task, str(source), str(target)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, cpu = map(float, output.split())
    seconds = time.perf_counter() - began
    written = total_bytes(target)
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    return {
        "mb_per_s": size / 1e6 / seconds,
        "cpu_s_per_gb": cpu / (size / 1e9),
        "peak_mib": peak,
        "written_mb": written / 1e6,
    }


def forget(folder: Path) -> None:
    """Ask the operating system to drop what it caches of the files."""
    os.sync()
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def total_bytes(path: Path) -> int:
    """Return the size of a file or of a folder's files; 0 if there is none."""
    files = path.iterdir() if path.is_dir() else [path] if path.exists() else []
    return sum(file.stat().st_size for file in files)


def _row(task: str, runs: list[dict[str, float]], copied: float) -> dict[str, Any]:
    rates = [each["mb_per_s"] for each in runs]
    return {
        "task": task,
        "mb_per_s": round(statistics.median(rates)),
        "mb_per_s_min": round(min(rates)),
        "mb_per_s_max": round(max(rates)),
        "share_of_copy": round(statistics.median(rates) / copied, 2),
        "cpu_s_per_gb": round(min(each["cpu_s_per_gb"] for each in runs), 2),
        "peak_mib": round(max(each["peak_mib"] for each in runs)),
        "written_mb": round(runs[0]["written_mb"]),
    }


def as_text(figures: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    lines = [
        f"{figures['folder_mb']} MB, {figures['episodes']} episodes, {figures['cores']} cores, "
        f"load {figures['load_average']:.1f}",
        "",
        "| | MB/s, median (min - max) | of a plain copy | CPU s/GB | peak MiB | written MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in figures["tasks"]:
        spread = f"{row['mb_per_s']} ({row['mb_per_s_min']} - {row['mb_per_s_max']})"
        lines.append(
            f"| {row['task']} | {spread} | {row['share_of_copy']:.2f} | {row['cpu_s_per_gb']} "
            f"| {row['peak_mib']} | {row['written_mb']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
