"""Five exact ways to the kernel of a diagonal-plus-rank-one system, timed and compared.

    series      diagonal Vandermonde products and a quotient of power series (what the package does)
    cauchy      Cauchy products at the roots of unity, Woodbury, inverse FFT (arXiv 2111.00396), in
                plain PyTorch, given C (I - Ā^L) for free, as implementations that fix L do
    blocks      dense real Ā: K_{aS+b} = (C Ā^{aS}) (Ā^b B̄), both factors by doubling
    recurrence  dense real Ā, one matrix-vector product a step
    eigenbasis  diagonalize Ā, then one Vandermonde product

Forward and backward in float64, H = N = 96, HiPPO-LegS. The error is the largest difference to the
recurrence in float64, relative to the largest tap. Run it on an otherwise idle machine:

    python benchmarks/dplr_routes.py --threads 2 --out benchmarks/results/dplr_routes.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.measure import Control, Effort, measure_time
from mads4.kernels.system import DiscreteSystem, kernel_taps
from mads4.kernels.vandermonde import vandermonde
from mads4.nn.recurrence import as_real
from mads4.nn.ssm import StateSpace

CPU = torch.device("cpu")
Route = Callable[[StateSpace, int], Tensor]
LONGEST = {"recurrence": 2000, "cauchy": 2000}
"""Route → the greatest length that it is timed at."""


def series(ssm: StateSpace, length: int) -> Tensor:
    """Divide by the feedback loop's power series."""
    return kernel_taps(ssm.discretize(), length)


def cauchy_product(weight: Tensor, poles: Tensor, nodes: Tensor) -> Tensor:
    """Return Σ_n [w_n / (z_l - λ_n) + w̄_n / (z_l - λ̄_n)] of (H, M, N), (H, N), (L,): (H, M, L)."""
    both = torch.cat([poles, poles.conj()], dim=-1).unsqueeze(-1)
    return torch.cat([weight, weight.conj()], dim=-1) @ (1.0 / (nodes - both))


def cauchy(ssm: StateSpace, length: int) -> Tensor:
    """Evaluate the generating function by Cauchy products."""
    dt = ssm.log_dt.double().exp()
    poles = torch.complex(-ssm.log_decay.double().exp(), ssm.frequency.double())
    low_rank, column, row = (
        torch.view_as_complex(values.double()) for values in (ssm.low_rank, ssm.column, ssm.row)
    )
    half = length // 2 + 1
    angle = -2.0 * math.pi / length * torch.arange(half, dtype=torch.float64)
    if length % 2 == 0:
        angle[-1] += 1e-9  # z = -1 is a limit of the formula
    root = torch.polar(torch.ones_like(angle), angle)
    nodes = (1.0 - root) / (1.0 + root)
    scaled = 0.5 * dt.unsqueeze(-1) * poles
    left = torch.stack([row, row, low_rank.conj(), low_rank.conj()], dim=1)
    right = torch.stack([column, low_rank, column, low_rank], dim=1)
    cb, cp, pb, pp = (cauchy_product(left * right, scaled, nodes) / (1.0 + root)).unbind(1)
    gain = 0.5 * dt.unsqueeze(-1) * (1.0 + root)
    spectrum = dt.unsqueeze(-1) * (cb - gain / (1.0 + gain * pp) * cp * pb)
    taps: Tensor = torch.fft.irfft(spectrum, n=length)
    return taps


def dense(system: DiscreteSystem) -> tuple[Tensor, Tensor, Tensor]:
    """Return real Ā (H, N, N), B̄ (H, N), C (H, N) on interleaved real and imaginary parts."""
    decay, feedback = torch.view_as_real(system.decay), system.feedback
    assert feedback is not None, "this is about DPLR systems"
    cosine, sine = decay.unbind(-1)
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    channels, pairs = cosine.shape
    matrix = turn.new_zeros(channels, pairs, 2, pairs, 2)
    index = torch.arange(pairs)
    matrix[:, index, :, index, :] = turn.transpose(0, 1)
    matrix = matrix.reshape(channels, 2 * pairs, 2 * pairs)
    row = as_real(2.0 * feedback.row.conj())
    matrix = matrix + as_real(feedback.column).unsqueeze(-1) * row.unsqueeze(-2)
    return matrix, as_real(system.column), as_real(2.0 * system.row.conj())


def doubled(start: Tensor, matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return M^k start for k < count as columns, and M^(2^j) with 2^j >= count."""
    columns = start.unsqueeze(-1)
    while columns.shape[-1] < count:
        columns = torch.cat([columns, matrix @ columns], dim=-1)
        matrix = matrix @ matrix
    return columns[..., :count], matrix


def blocks(ssm: StateSpace, length: int) -> Tensor:
    """Multiply two blocks of powers of the dense matrix."""
    matrix, column, row = dense(ssm.discretize())
    size = 1 << math.ceil(math.log2(math.sqrt(length)))
    columns, power = doubled(column, matrix, size)
    rows, _ = doubled(row, power.mT, -(-length // size))
    taps = (rows.mT @ columns).flatten(1)[:, :length]
    return torch.cat([taps[:, :1] + ssm.feedthrough.double().unsqueeze(-1), taps[:, 1:]], dim=-1)


def recurrence(ssm: StateSpace, length: int) -> Tensor:
    """Multiply by the dense matrix step by step."""
    matrix, state, row = dense(ssm.discretize())
    taps = []
    for _ in range(length):
        taps.append((row * state).sum(-1))
        state = (matrix @ state.unsqueeze(-1)).squeeze(-1)
    taps[0] = taps[0] + ssm.feedthrough
    return torch.stack(taps, dim=-1)


def eigenbasis(ssm: StateSpace, length: int) -> Tensor:
    """Multiply in the basis in which the matrix is diagonal."""
    matrix, column, row = dense(ssm.discretize())
    values, basis = torch.linalg.eig(matrix)
    weight = (row.to(values.dtype).unsqueeze(-2) @ basis).squeeze(-2)
    weight = weight * torch.linalg.solve(basis, column.to(values.dtype))
    taps = vandermonde(0.5 * weight.unsqueeze(1), values, length).squeeze(1)
    return torch.cat([taps[:, :1] + ssm.feedthrough.double().unsqueeze(-1), taps[:, 1:]], dim=-1)


def error(taps: Tensor, truth: Tensor, ssm: StateSpace, route: str, length: int) -> float:
    """Return the relative error; the Cauchy route is given another C and compared accordingly."""
    if route == "cauchy":
        system = ssm.discretize()
        matrix, column, row = dense(system)
        power = torch.linalg.matrix_power(matrix, length)
        fixed = torch.linalg.solve(torch.eye(len(column[0])) - power.mT, row)
        pairs = torch.view_as_complex(fixed.unflatten(-1, (-1, 2)).contiguous()).conj()
        truth = kernel_taps(
            DiscreteSystem(
                system.decay,
                system.column,
                0.5 * pairs,
                torch.zeros(len(column), dtype=torch.float64),
                system.feedback,
            ),
            length,
        )
    return ((taps - truth).abs().max() / truth.abs().max()).item()


def timed(route: Route, ssm: StateSpace, length: int) -> dict[str, float]:
    """Return the medians of forward and of forward and backward."""
    effort = Effort(repeats=5, min_seconds=1.0, max_seconds=10.0)
    leaves, weights = list(ssm.parameters()), torch.randn(96, length, dtype=torch.float64)

    def both() -> object:
        return torch.autograd.grad(route(ssm, length), leaves, weights, allow_unused=True)

    return {
        "forward_ms": measure_time(lambda: route(ssm, length), effort, CPU).median,
        "forward_backward_ms": measure_time(both, effort, CPU).median,
    }


def main() -> None:
    """Time and compare the routes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="50,500,2000,16000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    routes: dict[str, Route] = {
        "recurrence": recurrence,
        "series": series,
        "cauchy": cauchy,
        "blocks": blocks,
        "eigenbasis": eigenbasis,
    }
    control, rows = Control(2048, CPU), []
    for length in map(int, arguments.lengths.split(",")):
        torch.manual_seed(0)
        ssm = StateSpace(96, 96, parameterization="dplr", discretization="bilinear").double()
        with torch.no_grad():
            truth = recurrence(ssm, length)
        for name, route in routes.items():
            with torch.no_grad():
                taps = route(ssm, length)
            row = {"length": length, "route": name, "error": error(taps, truth, ssm, name, length)}
            if length > LONGEST.get(name, length):
                row |= {"note": "too slow or too large to be timed"}
            else:
                row |= timed(route, ssm, length)
                control.sample(2)
            rows.append(row)
            print({key: float(f"{v:.3g}") if isinstance(v, float) else v for key, v in row.items()})
    gflops = control.gflops(control.timing.median)
    print(f"control: {gflops:.0f} GFLOP/s, {arguments.threads} threads")
    if arguments.out:
        report = {"torch": torch.__version__, "threads": arguments.threads, "gflops": gflops}
        arguments.out.write_text(json.dumps(report | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
