"""The benchmark of policies from its grid to its rows, without cells that would take too long."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from harness import memory
from harness.agents import (
    DECISION,
    TRAINING,
    TRANSFORMERS,
    AgentCell,
    agent_workload,
    policy_of,
    prepared,
    remembered_bytes,
)
from harness.agents_rows import AgentRow
from harness.measure import Control, Effort, Timing, measure_time
from mads4.models.base import parameter_count

_CONTROL_RUNS = 2
_BASE = "none"
_EARLIEST = 0
"""Time step of S4's decisions; they cost the same at any other."""


@dataclass(frozen=True)
class AgentGrid:
    """The sizes and policies whose combinations are measured."""

    policies: Sequence[str]
    agents: Sequence[int]
    lengths: Sequence[int]
    """Of trajectories; and where in an episode a transformer decides."""
    steps_per_batch: int
    """Environment steps of a training batch, whatever the length: trajectories · T."""
    environments: Sequence[int]
    channels: int
    state: int
    parameterization: str
    device: str

    def cells(self) -> list[AgentCell]:
        """Return all combinations: training, decisions, and decisions further into an episode."""
        policies = sorted(self.policies, key=lambda name: name != _BASE)
        cells = [
            self._cell(TRAINING, policy, n, steps, max(1, self.steps_per_batch // steps))
            for steps, policy, n in itertools.product(self.lengths, policies, self.agents)
        ]
        for batch, policy in itertools.product(self.environments, policies):
            moments = self.lengths if policy in TRANSFORMERS else [_EARLIEST]
            pairs = itertools.product(moments, self.agents)
            cells += [self._cell(DECISION, policy, n, steps, batch) for steps, n in pairs]
        later = itertools.product([p for p in policies if p not in TRANSFORMERS], self.lengths)
        first = self.agents[0], self.environments[0]
        cells += [self._cell(DECISION, p, first[0], steps, first[1]) for p, steps in later]
        return cells

    def _cell(self, case: str, policy: str, n: int, steps: int, batch: int) -> AgentCell:
        sizes = (self.channels, self.state, self.parameterization, self.device)
        return AgentCell(case, policy, n, steps, batch, *sizes)


@dataclass(frozen=True)
class AgentSettings:
    """How the cells of a grid are measured."""

    effort: Effort
    threads: int
    control_size: int
    max_run_seconds: float
    """A cell is left out if one run is expected to take longer …"""
    max_mebibytes: float
    """… or to need more memory, extrapolated from the policy's latest cell."""


@dataclass
class AgentSuite:
    """Measures cells one after another, those of one policy from small to large."""

    settings: AgentSettings
    device: torch.device
    progress: Callable[[str], None] = lambda words: None
    _measured: dict[tuple[str, str], tuple[AgentCell, AgentRow]] = field(default_factory=dict)
    """(case, policy) → the last cell that was measured."""
    _alone: dict[AgentCell, float] = field(default_factory=dict)
    """Cell → milliseconds of agents without messages."""

    def __post_init__(self) -> None:
        self.control = Control(self.settings.control_size, self.device)

    def rows(self, cells: Sequence[AgentCell]) -> Iterator[AgentRow]:
        """Yield the row of every cell as soon as it is measured."""
        for index, cell in enumerate(cells, start=1):
            self.progress(
                f"[{index}/{len(cells)}] {cell.case} {cell.policy} n={cell.agents} "
                f"T={cell.steps} B={cell.batch}"
            )
            reason = self._reason_to_leave_out(cell)
            row = _row(cell, note=reason) if reason else self._measure(cell)
            self.progress("")
            yield row

    def _reason_to_leave_out(self, cell: AgentCell) -> str:
        if cell.case == DECISION:
            kept = cell.batch * remembered_bytes(cell) / memory.MEBIBYTE
            return self._too_much("states of", kept)
        if (cell.case, cell.policy) not in self._measured:
            return ""
        before, row = self._measured[cell.case, cell.policy]
        seconds = (row.ms or 0.0) / 1e3 * cell.work / before.work
        if seconds > self.settings.max_run_seconds:
            limit = self.settings.max_run_seconds
            return f"left out: a run would take about {seconds:.0f} s, more than {limit:g}"
        return self._too_much("", (row.peak_mib or 0.0) * cell.agent_steps / before.agent_steps)

    def _too_much(self, what: str, mebibytes: float) -> str:
        limit = self.settings.max_mebibytes
        if mebibytes <= limit:
            return ""
        words = f"{what} about".strip()
        return f"left out: would need {words} {mebibytes:.0f} MiB, more than {limit:.0f}"

    def _measure(self, cell: AgentCell) -> AgentRow:
        try:
            row = self._timed(cell)
        except torch.cuda.OutOfMemoryError:
            return _row(cell, note="out of memory")
        self._measured[cell.case, cell.policy] = cell, row
        return row

    def _timed(self, cell: AgentCell) -> AgentRow:
        work = agent_workload(cell)
        with work.context():
            controls = self.control.sample(_CONTROL_RUNS)
            action = work.forward_backward or work.forward
            timing = measure_time(action, self.settings.effort, self.device)
            controls += self.control.sample(_CONTROL_RUNS)
        del work, action
        values = self._columns(cell, timing, median(controls))
        values["parameters"] = parameter_count(policy_of(cell))
        note = ""
        if cell.case == DECISION:
            values["remembered_kib"] = remembered_bytes(cell) / 1024.0
        elif memory.reason_against(self.device) is None:
            prepare = partial(prepared, cell)
            try:
                peak = memory.peak_mebibytes(prepare, self.device, self.settings.threads)
                values["peak_mib"] = peak
            except MemoryError as error:
                note = f"peak memory unknown: {error}"
        return _row(cell, **values, note=note)

    def _columns(self, cell: AgentCell, timing: Timing, product: float) -> dict[str, Any]:
        if cell.policy == _BASE:
            self._alone[cell] = timing.median
        steps = _EARLIEST if cell.case == DECISION else cell.steps
        base = self._alone.get(replace(cell, policy=_BASE, steps=steps))
        return {
            "ms": timing.median,
            "ms_min": timing.minimum,
            "ms_p10": timing.quantile(0.1),
            "ms_p90": timing.quantile(0.9),
            "runs": timing.runs,
            "in_products": timing.median / product,
            "over_none": None if base is None else timing.median / base,
            "agent_steps_per_second": 1e3 * cell.agent_steps / timing.median,
            "control_ms": product,
            "control_gflops": self.control.gflops(product),
        }


def _row(cell: AgentCell, **values: Any) -> AgentRow:
    return AgentRow(**asdict(cell), **values)
