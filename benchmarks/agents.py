"""Time and memory of training steps and decisions of policies for many agents.

    python benchmarks/agents.py             # a few minutes
    python benchmarks/agents.py --full      # 2 to 64 agents, up to 2000 steps

Beside the policies stands a transformer of like size, and a matrix product, timed in the same run,
is the control. The results are printed and written to ``<out>.csv``, ``<out>.json`` and a plot,
``<out>.png``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from harness import agents_picture, agents_rows
from harness.agents import N_LAYERS, POLICIES, USUAL
from harness.agents_suite import AgentGrid, AgentSettings, AgentSuite
from harness.command import Plan, effort_of, progress, run
from harness.options import TIMES, Options, names, number, numbers, seconds
from mads4.nn.ssm import PARAMETERIZATIONS

DEFAULTS: dict[str, Any] = {
    **{"agents": [2, 4, 8, 16], "lengths": [50, 500], "environments": [1, 32]},
    **{"steps": 1000, "max_run_seconds": 5.0},
    **{"repeats": 3, "min_seconds": 0.1, "max_seconds": 1.0},
}
QUICK: dict[str, Any] = {
    **{"agents": [2, 3], "lengths": [4, 8], "environments": [1, 2]},
    **{"steps": 8, "max_run_seconds": 5.0},
}
FULL: dict[str, Any] = {
    **{"agents": [2, 4, 8, 16, 32, 64], "lengths": [50, 500, 2000], "environments": [1, 32]},
    **{"steps": 2000, "max_run_seconds": 20.0, **TIMES},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options = Options(parser, DEFAULTS, QUICK)
    parser.add_argument(
        "--policies",
        type=names(POLICIES),
        default=list(USUAL),
        metavar="NAME,…",
        help="messages between agents, <message>[-previous][+action] (-previous: delayed by one "
        f"step; +action: with the action), and transformers: of {', '.join(POLICIES)}; "
        f"default: {', '.join(USUAL)}",
    )
    options.add("--agents", numbers(1), "n,…", "agents")
    options.add("--lengths", numbers(1), "T,…", "steps of a trajectory")
    words = "environment steps of a training batch, divided into trajectories"
    options.add("--steps", number(1), "STEPS", words)
    options.add("--environments", numbers(1), "B,…", "environments of one decision")
    words = "leave out training steps expected to take longer"
    options.add("--max-run-seconds", seconds, "S", words)
    parser.add_argument(
        "--max-memory",
        type=number(1),
        default=6144,
        metavar="MIB",
        help="leave out cells expected to need more (default 6144)",
    )
    parser.add_argument(
        "--parameterization", choices=PARAMETERIZATIONS, default=PARAMETERIZATIONS[0]
    )
    parser.add_argument("--full", action="store_true", help="2 to 64 agents, up to 2000 steps")
    options.add_common()
    args = parser.parse_args(argv)
    return run("agents", options.fill(args, **(FULL if args.full else {})), plan)


def plan(args: argparse.Namespace, device: torch.device) -> Plan:
    """Plan training steps and decisions of whole policies."""
    grid = AgentGrid(
        policies=args.policies,
        agents=args.agents,
        lengths=args.lengths,
        steps_per_batch=args.steps,
        environments=args.environments,
        channels=args.channels,
        state=args.state,
        parameterization=args.parameterization,
        device=str(device),
    )
    settings = AgentSettings(
        effort_of(args),
        torch.get_num_threads(),
        args.control,
        args.max_run_seconds,
        args.max_memory,
    )
    suite = AgentSuite(settings, device, progress)

    def more(rows: Sequence[Any]) -> tuple[dict[str, Any], str]:
        fits = agents_rows.growth(rows)
        return {"growth": fits}, agents_rows.growth_text(fits) if fits else ""

    return Plan(
        sizes=f"{N_LAYERS} blocks, H = {grid.channels}, N = {grid.state}, {grid.parameterization}",
        grid=grid,
        settings=settings,
        control=suite.control,
        rows=suite.rows(grid.cells()),
        headings=agents_rows.headings,
        to_text=agents_rows.to_text,
        draw=agents_picture.draw,
        more=more,
    )


if __name__ == "__main__":
    sys.exit(main())
