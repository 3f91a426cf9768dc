"""Compare online trainings: curves against environment steps, and what it took to get somewhere.

Each argument names a group of runs that differ in their seed: ``label=folder``, every run at or
below the folder. Curves are averages over the latest 32 episodes of training itself; the evaluation
is each run's own. ``--reach R`` also tells the environment steps until that average is R.

    python benchmarks/learning_curves.py out.json --reach 12 "from scratch=outputs/scratch" …

Writes ``out.json`` and ``out.png``.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mads4.report.compare import find_runs
from mads4.report.drawing import FAINT, INK, grouped, quiet

AVERAGED_EPISODES = 32
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


def main() -> None:
    """Read the runs; write figures and picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("groups", nargs="+", metavar="label=folder")
    parser.add_argument("--reach", type=float, help="a return")
    parser.add_argument("--data-mean", type=float, help="drawn as a line")
    args = parser.parse_args()
    groups: dict[str, list[dict[str, Any]]] = {}
    for group in args.groups:
        label, _, folder = group.partition("=")
        groups[label] = [read_run(run, args.reach) for run in find_runs([Path(folder)])]
    args.out.write_text(json.dumps(groups, indent=1) + "\n", encoding="utf-8")
    draw(groups, args.out.with_suffix(".png"), args.reach, args.data_mean)
    for label, runs in groups.items():
        for run in runs:
            last = run["evaluation"][0]
            low, high = last["return_ci95"]
            print(
                f"{label}, seed {run['seed']}: {last['return_mean']:.1f} [{low:.1f}, {high:.1f}], "
                f"reached after {run['steps_to_reach']} steps, {run['steps_per_second']} steps/s"
            )


def read_run(run: Path, reach: float | None) -> dict[str, Any]:
    """Return one run's curve, its evaluation, and when it reached a return."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "online/return_mean" in row]
    if not rows:
        raise SystemExit(f"{run} is no online training.")
    steps = [int(row["online/environment_steps"]) for row in rows]
    episodes = max(1, round(steps[0] / summary["env"]["episode_limit"]))
    recent: deque[float] = deque(maxlen=max(1, AVERAGED_EPISODES // episodes))
    average = []
    for row in rows:
        recent.append(row["online/return_mean"])
        average.append(round(float(np.mean(recent)), 3))
    rate = rows[-1]["online/agent_steps_per_second"] / summary["env"]["n_agents"]
    settled = recent.maxlen or 1
    goal = np.inf if reach is None else reach
    reached = (s for s, a in list(zip(steps, average, strict=True))[settled - 1 :] if a >= goal)
    kept = ("target_return", "return_mean", "return_ci95", "return_iqm", "episodes")
    return {
        "seed": summary["seed"],
        "evaluation": [{key: found[key] for key in kept} for found in summary["eval"].values()],
        "steps_to_reach": next(reached, None),
        "steps_per_second": round(rate),
        "environment_steps": steps,
        "return_average": average,
    }


def draw(
    groups: dict[str, list[dict[str, Any]]], path: Path, reach: float | None, data: float | None
) -> None:
    """Draw every group's mean over seeds and the span between them."""
    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    quiet(axes, "Returns of training's own episodes: mean over seeds, and least to greatest")
    for (label, runs), color in zip(groups.items(), COLORS, strict=False):
        count = min(len(run["return_average"]) for run in runs)
        values = np.array([run["return_average"][:count] for run in runs])
        steps = runs[0]["environment_steps"][:count]
        axes.plot(steps, values.mean(0), color=color, linewidth=2, label=label)
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.18, lw=0)
    for value, what in ((data, "mean of the recorded data"), (reach, "pretrained policy")):
        if value is not None:
            style = "--" if what.startswith("mean") else ":"
            axes.axhline(value, color=FAINT, linestyle=style, linewidth=1.2, label=what)
    axes.set_xlabel("environment steps", color=INK)
    axes.set_ylabel(f"return, averaged over {AVERAGED_EPISODES} episodes", color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: grouped(value))
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path)


if __name__ == "__main__":
    main()
